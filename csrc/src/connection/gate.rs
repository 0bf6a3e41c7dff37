//! Storey 2: requests of a peer that wait for changes it announced but did not deliver (a Bloom filter may withhold a
//! change, protocol 2, section 5.5).

use std::collections::VecDeque;

use super::peer_request::PeerRequest;

/// The gate opens after at most this many further sync messages of a peer that answers none while it waits.
const ROUNDS: u32 = 2;
/// Requests that wait at one time. The gate opens for the last one: it sees the document as it is.
pub(super) const REQUESTS: usize = 1024;
/// Their bytes.
pub(super) const BYTES: usize = 64 * 1024 * 1024;

/// Holds requests back until the document has the changes announced before them.
#[derive(Default)]
pub(super) struct Gate {
    waiting: VecDeque<PeerRequest>,
    bytes: usize,
    /// Sync messages until the gate opens by itself; it is open at 0.
    rounds: u32,
}

impl Gate {
    /// Whether a request waits.
    pub fn is_closed(&self) -> bool {
        self.rounds > 0 && !self.waiting.is_empty()
    }

    /// Releases all requests.
    pub fn open(&mut self) {
        self.rounds = 0;
    }

    /// The next request that has waited long enough.
    pub fn next(&mut self) -> Option<PeerRequest> {
        if self.rounds > 0 {
            return None;
        }
        self.waiting.pop_front()
    }

    /// A request came. `missing`: its sender announced changes that the document lacks. Returns the request unless it
    /// has to wait.
    pub fn admit(&mut self, request: PeerRequest, missing: bool) -> Option<PeerRequest> {
        if self.waiting.is_empty() && missing {
            self.rounds = ROUNDS;
            self.bytes = 0;
        }
        if self.rounds == 0 {
            return Some(request);
        }
        self.bytes += request.body.len();
        self.waiting.push_back(request);
        if self.waiting.len() >= REQUESTS || self.bytes >= BYTES {
            self.open();
        }
        None
    }

    /// A sync message came. It counts as a round unless its sender may send edits at any time.
    pub fn synced(&mut self, missing: bool, counts: bool) {
        if !missing {
            self.open();
        } else if counts {
            self.rounds = self.rounds.saturating_sub(1);
        }
    }
}
