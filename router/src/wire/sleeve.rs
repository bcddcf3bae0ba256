//! sleeve
