//! Go's gob encoding, as far as it appears in Weave's protocols.
