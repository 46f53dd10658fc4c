//! Uploads, to servers on loopback.

#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod hub_client;
#[cfg(feature = "hub")]
mod hub_server;
