//! Control engines against each other, without IO.
