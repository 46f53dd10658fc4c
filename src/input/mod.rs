//! From a folder, file or glob to chunks of whole lines.

pub mod chunk;
pub mod discover;
mod mapped;
pub mod share;
mod sigbus;
mod stamp;
mod streamed;

pub use chunk::{Chunk, Cutter};
pub use discover::{Encoding, Shard, discover};
pub use mapped::Mapping;
pub use share::Piece;
pub use stamp::Stamp;
pub use streamed::unpacked;
