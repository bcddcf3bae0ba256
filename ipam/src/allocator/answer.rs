//! How requests end.

use std::sync::Arc;

use proto::PeerName;
use thiserror::Error;

use crate::range::{Address, Cidr};
use crate::space::SpaceError;
use crate::wire::persist::Owned;

/// How a request ends.
pub type Answer = Result<Done, Refusal>;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// An address, with the prefix length of the subnet that was asked for.
    Allocated(Cidr),
    /// The address belongs to the identifier, or will as soon as that can be settled.
    Claimed(Cidr),
    /// There is a ring.
    Primed,
    /// The addresses are free.
    Released,
    /// Addresses of one identifier.
    Addresses(Vec<Cidr>),
    /// All addresses given out.
    Owned(Vec<(Arc<str>, Owned)>),
    /// Our ranges have been handed over to this peer, if there is any.
    ShutDown(Option<PeerName>),
    /// So many free addresses have been taken over.
    TakenOver(u32),
}

/// Why a request has failed. Nothing has changed. The wording is known to scripts.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The container has died, or we are shutting down.
    #[error("{what} request for {ident} cancelled")]
    Cancelled {
        /// `Allocate`, `Claim` or `Prime`.
        what: &'static str,
        /// For whom it was.
        ident: String,
    },
    /// The subnet has no address that we may give out.
    #[error("range {subnet} out of bounds: {universe}")]
    OutOfBounds {
        /// What was asked for.
        subnet: Cidr,
        /// What there is.
        universe: Cidr,
    },
    /// The address cannot be claimed.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// An address that is none of ours to give out is noted for somebody else.
    #[error("address {cidr} already in use by {owner}")]
    InUseBy {
        /// The address.
        cidr: Cidr,
        /// Who has it.
        owner: String,
    },
    /// Somebody without an identifier has the address.
    #[error("address {0} already in use")]
    InUse(Cidr),
    /// Somebody else on this host has the address.
    #[error("address {cidr} is already owned by {owner}")]
    AlreadyOwned {
        /// The address.
        cidr: Cidr,
        /// Who has it.
        owner: String,
    },
    /// Another peer has the address, and does not or cannot give it away.
    #[error("address {cidr} is owned by other peer {peer}{nickname}{reason}")]
    OtherPeer {
        /// The address.
        cidr: Cidr,
        /// Its owner.
        peer: PeerName,
        /// What people call the owner, in brackets.
        nickname: String,
        /// Why it cannot, after a dash.
        reason: String,
    },
    /// The identifier does not have this address.
    #[error("Free: address {address} not found for {ident}")]
    NotFound {
        /// The address.
        address: Address,
        /// The identifier.
        ident: String,
    },
    /// The identifier has no address.
    #[error("Delete: no addresses for {0}")]
    NothingOwned(String),
    /// Too many requests are waiting.
    #[error("too many requests are waiting; try again later")]
    TooManyWaiting,
    /// Ranges of a living peer are not to be taken.
    #[error(
        "{0} is still reachable; stop it first, or reset it so that it hands its ranges over \
         itself"
    )]
    StillReachable(String),
    /// Somebody was faster.
    #[error("the ranges of {peer} have been taken over by {by} already")]
    AlreadyTaken {
        /// Whose they were.
        peer: String,
        /// Whose they are.
        by: String,
    },
    /// Several peers are called that.
    #[error("several peers are called {name}; use one of their names: {peers}")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// Who that could be.
        peers: String,
    },
}
