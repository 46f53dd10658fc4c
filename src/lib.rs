//! colophon: the last step of a training corpus.
//!
//! Data flow one way: [`input`] finds shards and cuts them into chunks; [`scan`] turns a chunk into
//! one row a line; [`select`] decides
//! what needs the whole corpus; [`mod@write`] puts lines together and makes them appear at once; [`publish`] takes
//! them where others can read them; [`report`] says what came of it. [`domain`] has the words that the stages share; only [`pipeline`] knows them all.

pub mod cli;
pub mod config;
pub mod demo;
pub mod domain;
pub mod error;
pub mod input;
pub mod pipeline;
pub mod publish;
pub mod report;
pub mod scan;
pub mod select;
pub mod write;
