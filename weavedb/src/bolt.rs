//! Bolt databases: one file that holds a tree of buckets, each a sorted map of bytes to bytes.
//!
//! ```text
//! file    pages of one length, a power of two; 0 and 1 are headers ("meta"), then any
//! page    id u64 | flags u16 | count u16 | overflow u32 | content       16 bytes before it
//!         overflow: so many pages more belong to it. flags: 1 branch, 2 leaf, 4 header, 16 list
//!         of free pages
//! header  magic u32 = ed0cdaed | version u32 = 2 | page length u32 | flags u32
//!         | root bucket: root page u64, sequence u64 | page of the free list u64
//!         | number of pages u64 | transaction u64 | checksum u64: FNV-1a over what is before it
//! branch  count × (position u32, key length u32, page u64), then keys
//! leaf    count × (flags u32, position u32, key length u32, value length u32), then keys, each
//!         with its value behind it. flags: 1 the value is a bucket
//! bucket  root page u64, sequence u64; if the root is 0, a page follows here, "inline"
//! ```
//!
//! Numbers are in the byte order of the machine, here always little endian. A position counts from
//! the start of its own element. Keys ascend. Nothing is changed in place but the headers, in
//! turns: the one with the higher transaction counts, and if the machine dies while it is written,
//! the other.
//!
//! The reader trusts nothing: each page is read once at most, so the work is bounded by the length
//! of the file, and what it returns are slices of the file.
//!
//! Source: the code of boltdb/bolt, version 1.3.

use std::collections::BTreeMap;

use thiserror::Error;

mod read;
mod write;

pub use read::Database;
pub use write::{PageLen, TooBig, encode};

const MAGIC: u32 = 0xed0c_daed;
const VERSION: u32 = 2;

/// Bytes before the content of a page.
const PAGE_HEADER_LEN: usize = 16;
/// Bytes of a header's content.
const META_LEN: usize = 64;
/// Bytes of it that its checksum covers.
const META_SUMMED_LEN: usize = 56;
/// Bytes of an element, in branches and leaves alike.
const ELEMENT_LEN: usize = 16;
/// Bytes of a bucket, before its page if that is inline.
const BUCKET_LEN: usize = 16;

const FLAG_BRANCH: u16 = 0x01;
const FLAG_LEAF: u16 = 0x02;
const FLAG_META: u16 = 0x04;
const FLAG_FREE_LIST: u16 = 0x10;
/// A leaf's element is a bucket.
const ELEMENT_BUCKET: u32 = 0x01;

/// Lengths of pages there are: those of the kernels.
const MIN_PAGE_LEN: usize = 1 << 10;
const MAX_PAGE_LEN: usize = 1 << 16;

/// Keys and values of a bucket.
pub type Entries<'a> = BTreeMap<&'a [u8], &'a [u8]>;

/// What is odd about a database that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Oddity {
    /// One of the two headers is damaged. That happens if the machine dies while it is written;
    /// then nothing is missing that anyone was told to be saved.
    #[error("one of its two headers is damaged: the change made last may be missing")]
    HeaderLost,
}

/// A file that is no sound database. The texts go on from "the file ...".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    /// Nothing in it: one was about to be made.
    #[error("is empty")]
    Empty,
    /// Neither header is one.
    #[error("is not a bolt database, or both its headers are damaged")]
    NoHeader,
    /// From a machine with numbers the other way round.
    #[error("was written on a machine of the other byte order")]
    ByteOrder,
    /// From another version of bolt.
    #[error("is a bolt database of version {0}; known is 2")]
    Version(u32),
    /// Something refers to what is past the end.
    #[error("is damaged: page {page} is past the end of the file; it has been cut off")]
    Short {
        /// The page.
        page: u64,
    },
    /// A page is not what it should be.
    #[error("is damaged: page {page}: {what}")]
    Page {
        /// The page.
        page: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// FNV-1a with 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
