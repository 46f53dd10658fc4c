//! Uploads, to servers on loopback.

mod hub;
mod hub_client;
mod hub_server;
