//! secretbox
