//! Requests of this host.

use std::sync::Arc;

use proto::PeerName;
use tracing::{debug, error, info};

use super::{
    ANONYMOUS, Allocator, Answer, CONTAINER_GRACE, Done, MAX_CLAIM_TRIES, MAX_WAITING, Now,
    PreClaim, Refusal, RequestId,
};
use crate::range::{Address, Cidr, Range};

/// Somebody waits for an address.
#[derive(Debug, Clone)]
pub(super) struct Allocate {
    pub(super) id: RequestId,
    pub(super) ident: String,
    pub(super) subnet: Cidr,
    is_container: bool,
}

/// An address waits to become somebody's.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// `None` if it was answered already, or nobody ever asked.
    pub(super) id: Option<RequestId>,
    pub(super) ident: String,
    pub(super) cidr: Cidr,
    is_container: bool,
    /// Whether to answer at once if it cannot be settled yet.
    no_error_on_unknown: bool,
    /// How often the owner could not be reached.
    tries: u32,
}

impl Claim {
    pub(super) fn found_at_start(found: &PreClaim) -> Self {
        Self {
            id: None,
            ident: found.ident.clone(),
            cidr: found.cidr,
            is_container: found.is_container,
            no_error_on_unknown: true,
            tries: 1,
        }
    }

    fn cancelled(&self) -> Refusal {
        Refusal::Cancelled {
            what: "Claim",
            ident: self.ident.clone(),
        }
    }
}

impl Allocate {
    fn cancelled(&self) -> Refusal {
        Refusal::Cancelled {
            what: "Allocate",
            ident: self.ident.clone(),
        }
    }
}

impl Allocator {
    pub(super) fn new_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    fn is_full(&self) -> bool {
        self.allocates.len() + self.claims.len() + self.primes.len() >= MAX_WAITING
    }

    /// Asks for an address in `subnet`. If `ident` has one there already, it is that. Waits until
    /// there is one.
    pub fn allocate(
        &mut self,
        ident: &str,
        subnet: Cidr,
        is_container: bool,
        now: Now,
    ) -> RequestId {
        let id = self.new_request();
        let request = Allocate {
            id,
            ident: ident.to_owned(),
            subnet,
            is_container,
        };
        let universe = self.config.universe;
        if self.shutting_down {
            self.answer(id, Err(request.cancelled()));
        } else if let Some(answer) = self.owned_already(&request) {
            self.answer(id, answer);
        } else if !universe.range().overlaps(subnet.range()) {
            self.answer(id, Err(Refusal::OutOfBounds { subnet, universe }));
        } else {
            self.establish();
            match self.try_allocate(&request) {
                Some(answer) => self.answer(id, answer),
                None if self.is_full() => self.answer(id, Err(Refusal::TooManyWaiting)),
                None => self.allocates.push(request),
            }
        }
        self.finish(now);
        id
    }

    fn owned_already(&mut self, request: &Allocate) -> Option<Answer> {
        let owned = self.owned.within(&request.ident, request.subnet.range());
        let address = owned.first()?.address;
        self.dead.remove(request.ident.as_str());
        let cidr = Cidr::new(address, request.subnet.prefix_len());
        Some(Ok(Done::Allocated(cidr)))
    }

    /// Fulfils a request, or sees to it that it can be later.
    fn try_allocate(&mut self, request: &Allocate) -> Option<Answer> {
        if let Some(answer) = self.owned_already(request) {
            return Some(answer);
        }
        let Some(address) = self.space.allocate(request.subnet.host_range()) else {
            self.ask_for_space(request.subnet.range());
            return None;
        };
        self.count_free(address, -1);
        let cidr = Cidr::new(address, request.subnet.prefix_len());
        self.note_owned(&request.ident, cidr, request.is_container);
        debug!(ident = request.ident, %cidr, "allocated");
        Some(Ok(Done::Allocated(cidr)))
    }

    fn note_owned(&mut self, ident: &str, cidr: Cidr, is_container: bool) {
        if ident == ANONYMOUS {
            self.owned
                .add(&cidr.address.to_string(), cidr, is_container);
        } else {
            self.owned.add(ident, cidr, is_container);
        }
    }

    /// Claims an address for `ident`. Waits until it is known whose it is, and until its owner
    /// has given it; or, with `no_error_on_unknown`, succeeds at once, and what has to be done is
    /// done later.
    pub fn claim(
        &mut self,
        ident: &str,
        cidr: Cidr,
        is_container: bool,
        no_error_on_unknown: bool,
        now: Now,
    ) -> RequestId {
        let id = self.new_request();
        let mut claim = Claim {
            id: Some(id),
            ident: ident.to_owned(),
            cidr,
            is_container,
            no_error_on_unknown,
            tries: 1,
        };
        if self.shutting_down {
            self.answer(id, Err(claim.cancelled()));
        } else if !self.config.universe.range().contains(cidr.address) {
            let answer = self.claim_outside(&claim);
            self.answer(id, answer);
        } else {
            self.establish();
            match self.try_claim(&mut claim) {
                Some(answer) => self.answer(id, answer),
                None if self.is_full() => self.end_claim(&claim, Err(Refusal::TooManyWaiting)),
                None => self.claims.push(claim),
            }
        }
        self.finish(now);
        id
    }

    /// An address that is none of ours to give out is merely noted.
    fn claim_outside(&mut self, claim: &Claim) -> Answer {
        let Claim {
            ident,
            cidr,
            is_container,
            ..
        } = claim;
        let owner = self.owned.owner(cidr.address).cloned();
        match owner {
            None => self.note_owned(ident, *cidr, *is_container),
            Some(owner) if *owner == **ident || ident == ANONYMOUS => {}
            Some(owner) if self.dead.contains_key(&owner) => {
                self.owned.remove(&owner, cidr.address);
                self.note_owned(ident, *cidr, *is_container);
            }
            Some(owner) => {
                return Err(Refusal::InUseBy {
                    cidr: *cidr,
                    owner: owner.to_string(),
                });
            }
        }
        Ok(Done::Claimed(*cidr))
    }

    /// Settles a claim, or sees to it that it can be settled later.
    fn try_claim(&mut self, claim: &mut Claim) -> Option<Answer> {
        self.dead.remove(claim.ident.as_str());
        let address = claim.cidr.address;
        if !self.config.universe.range().contains(address) {
            // Found at the start.
            return Some(self.claim_outside(claim));
        }
        let owner = self.ring.owner(address);
        match owner {
            Some(owner) if owner == self.config.name => return Some(self.claim_own(claim)),
            Some(owner) if self.reachable.contains(&owner) => {
                self.ask_peer_for_space(Range::single(address), owner);
            }
            _ if claim.no_error_on_unknown => self.answer_early(claim),
            Some(owner) if claim.tries > MAX_CLAIM_TRIES => {
                let reason = format!(" - unknown relay destination: {owner}");
                return Some(Err(self.refused_by(claim, owner, reason)));
            }
            _ => {}
        }
        None
    }

    fn answer_early(&mut self, claim: &mut Claim) {
        if let Some(id) = claim.id.take() {
            info!(ident = claim.ident, cidr = %claim.cidr, "cannot claim yet; will try later");
            self.answer(id, Ok(Done::Claimed(claim.cidr)));
        }
    }

    fn claim_own(&mut self, claim: &Claim) -> Answer {
        let Claim { ident, cidr, .. } = claim;
        let anonymous = cidr.address.to_string();
        match self.owned.owner(cidr.address) {
            None => {
                self.space.claim(cidr.address)?;
                self.count_free(cidr.address, -1);
                self.note_owned(ident, *cidr, claim.is_container);
                debug!(ident, %cidr, "claimed");
            }
            Some(owner) if **owner == **ident => {}
            // It may be the same container or another; that cannot be told.
            Some(_) if ident == ANONYMOUS => {}
            Some(owner) if **owner == *anonymous => return Err(Refusal::InUse(*cidr)),
            Some(owner) => {
                return Err(Refusal::AlreadyOwned {
                    cidr: *cidr,
                    owner: owner.to_string(),
                });
            }
        }
        Ok(Done::Claimed(*cidr))
    }

    fn refused_by(&self, claim: &Claim, peer: PeerName, reason: String) -> Refusal {
        let nickname = self.nicknames.get(&peer);
        Refusal::OtherPeer {
            cidr: claim.cidr,
            peer,
            nickname: nickname.map_or_else(String::new, |nickname| {
                format!(" ({})", String::from_utf8_lossy(nickname))
            }),
            reason,
        }
    }

    fn end_claim(&mut self, claim: &Claim, answer: Answer) {
        match (claim.id, answer) {
            (Some(id), answer) => self.answer(id, answer),
            (None, Err(Refusal::Cancelled { .. }) | Ok(_)) => {}
            (None, Err(refusal)) => error!(ident = claim.ident, "{refusal}"),
        }
    }

    /// Fails the claims that wait for an address in `range` of `peer`'s.
    pub(super) fn deny_claims(&mut self, range: Range, peer: PeerName) {
        let ring = &self.ring;
        let concerned = |claim: &mut Claim| {
            let address = claim.cidr.address;
            range.contains(address) && ring.owner(address) == Some(peer)
        };
        let denied: Vec<Claim> = self.claims.extract_if(.., concerned).collect();
        for claim in denied {
            let refusal = self.refused_by(&claim, peer, String::new());
            self.end_claim(&claim, Err(refusal));
        }
    }

    /// Waits until there is a ring, and sees to it that one comes into being.
    pub fn prime(&mut self, now: Now) -> RequestId {
        let id = self.new_request();
        if !self.shutting_down {
            self.establish();
        }
        if self.shutting_down || !self.ring.is_empty() {
            self.answer(id, Ok(Done::Primed));
        } else if self.is_full() {
            self.answer(id, Err(Refusal::TooManyWaiting));
        } else {
            self.primes.push(id);
        }
        self.finish(now);
        id
    }

    /// Tries everything that waits: claims before new addresses, so that nobody is given what
    /// another has already.
    pub(super) fn try_waiting(&mut self) {
        if !self.ring.is_empty() {
            for id in std::mem::take(&mut self.primes) {
                self.answer(id, Ok(Done::Primed));
            }
        }
        self.try_claims();
        for request in std::mem::take(&mut self.allocates) {
            match self.try_allocate(&request) {
                Some(answer) => self.answer(request.id, answer),
                None => self.allocates.push(request),
            }
        }
    }

    pub(super) fn try_claims(&mut self) {
        for mut claim in std::mem::take(&mut self.claims) {
            match self.try_claim(&mut claim) {
                Some(answer) => self.end_claim(&claim, answer),
                None => self.claims.push(claim),
            }
        }
    }

    /// Another interval has passed without what is waited for.
    pub(super) fn count_tries(&mut self) {
        for claim in &mut self.claims {
            claim.tries += 1;
        }
    }

    /// Frees one address of `ident`.
    pub fn release(&mut self, ident: &str, address: Address, now: Now) -> RequestId {
        let id = self.new_request();
        let answer = if self.owned.remove(ident, address) {
            debug!(ident, %address, "released");
            self.put_back(address);
            Ok(Done::Released)
        } else {
            Err(Refusal::NotFound {
                address,
                ident: ident.to_owned(),
            })
        };
        self.answer(id, answer);
        self.try_waiting();
        self.finish(now);
        id
    }

    /// Frees all addresses of `ident`.
    pub fn release_all(&mut self, ident: &str, now: Now) -> RequestId {
        let id = self.new_request();
        let answer = if self.drop_ident(ident) {
            Ok(Done::Released)
        } else {
            Err(Refusal::NothingOwned(ident.to_owned()))
        };
        self.answer(id, answer);
        self.try_waiting();
        self.finish(now);
        id
    }

    /// Returns whether there was anything to free.
    fn drop_ident(&mut self, ident: &str) -> bool {
        self.dead.remove(ident);
        let cidrs = self.owned.remove_all(ident);
        for cidr in &cidrs {
            self.put_back(cidr.address);
        }
        !cidrs.is_empty()
    }

    fn put_back(&mut self, address: Address) {
        // Addresses outside of our ranges are not in the space.
        if self.space.release(address).is_ok() {
            self.count_free(address, 1);
        }
    }

    /// Looks up the addresses of `ident` in `range`.
    pub fn lookup(&mut self, ident: &str, range: Range, now: Now) -> RequestId {
        let id = self.new_request();
        let cidrs = self.owned.within(ident, range);
        self.answer(id, Ok(Done::Addresses(cidrs)));
        self.finish(now);
        id
    }

    /// Lists all addresses given out.
    pub fn list_owned(&mut self, now: Now) -> RequestId {
        let id = self.new_request();
        let owned = self.owned.iter();
        let owned = owned.map(|(ident, owned)| (ident.clone(), owned.clone()));
        let owned = owned.collect();
        self.answer(id, Ok(Done::Owned(owned)));
        self.finish(now);
        id
    }

    /// Whether a request is still to be fulfilled. If it is not, its answer may yet wait for a save.
    pub fn is_pending(&self, id: RequestId) -> bool {
        self.allocates.iter().any(|request| request.id == id)
            || self.claims.iter().any(|claim| claim.id == Some(id))
            || self.primes.contains(&id)
    }

    /// Nobody waits for the answer to this request any more. If it has not been fulfilled yet, it
    /// never will be.
    pub fn cancel(&mut self, id: RequestId, now: Now) {
        self.primes.retain(|prime| *prime != id);
        self.allocates.retain(|request| request.id != id);
        self.claims.retain(|claim| claim.id != Some(id));
        self.journal.forget(id);
        self.finish(now);
    }

    /// Ends all requests with a refusal.
    pub(super) fn cancel_all(&mut self) {
        for id in std::mem::take(&mut self.primes) {
            self.answer(id, Ok(Done::Primed));
        }
        for claim in std::mem::take(&mut self.claims) {
            self.end_claim(&claim, Err(claim.cancelled()));
        }
        for request in std::mem::take(&mut self.allocates) {
            self.answer(request.id, Err(request.cancelled()));
        }
        self.asked.clear();
    }

    /// A container has died. Its addresses are kept for a while.
    pub fn container_died(&mut self, ident: &str, now: Now) {
        if self.owned.is_container(ident) {
            self.dead.insert(ident.into(), now.at);
        }
        let requests: Vec<Allocate> = self
            .allocates
            .extract_if(.., |request| request.ident == ident)
            .collect();
        for request in requests {
            self.answer(request.id, Err(request.cancelled()));
        }
        let claims: Vec<Claim> = self
            .claims
            .extract_if(.., |claim| claim.ident == ident)
            .collect();
        for claim in claims {
            self.end_claim(&claim, Err(claim.cancelled()));
        }
        self.finish(now);
    }

    /// A container has been started.
    pub fn container_started(&mut self, ident: &str, now: Now) {
        self.dead.remove(ident);
        self.finish(now);
    }

    /// A container is gone for good, and its addresses are free.
    pub fn container_destroyed(&mut self, ident: &str, now: Now) {
        if self.owned.is_container(ident) {
            self.drop_ident(ident);
            self.try_waiting();
        }
        self.finish(now);
    }

    /// Frees the addresses of all containers but these.
    pub fn prune(&mut self, is_alive: impl Fn(&str) -> bool, now: Now) {
        let containers = self.owned.iter().filter(|(_, owned)| owned.is_container);
        let gone: Vec<Arc<str>> = containers
            .map(|(ident, _)| ident.clone())
            .filter(|ident| !is_alive(ident))
            .collect();
        for ident in &gone {
            debug!(%ident, "container is gone");
            self.drop_ident(ident);
        }
        if !gone.is_empty() {
            self.try_waiting();
        }
        self.finish(now);
    }

    pub(super) fn drop_dead_containers(&mut self, now: Now) {
        let over =
            |since: &std::time::Instant| now.at.saturating_duration_since(*since) > CONTAINER_GRACE;
        let gone: Vec<Arc<str>> = self
            .dead
            .iter()
            .filter(|(_, since)| over(since))
            .map(|(ident, _)| ident.clone())
            .collect();
        for ident in &gone {
            self.drop_ident(ident);
        }
        if !gone.is_empty() {
            self.try_waiting();
        }
    }
}
