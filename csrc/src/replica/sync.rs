//! Storey 1: the sync state of one peer.

use std::collections::{BTreeSet, HashSet};

use automerge::sync::{Capability, ChunkList, Have, Message, MessageFlags, MessageVersion, State, SyncDoc};
use automerge::{Automerge, ChangeHash};

use super::admission::{admit_message, leb128, Admitted};
use super::panic::catch_panic;
use super::rollback::apply_or_restore;
use super::{Doc, Replica, ReplicaError};

/// More probes than any peer uses in a filter (7 everywhere); a filter that asks for billions of
/// them would block this thread.
const MAX_PROBES: u64 = 64;

/// What we know about the replica of one peer, for the life of one connection (protocol 2,
/// section 7.1: nothing is remembered across connections).
#[derive(Debug, Clone)]
pub struct PeerSync {
    state: State,
    /// False once a change of the peer had another hash when it was replayed.
    writes_as_we_do: bool,
}

impl Default for PeerSync {
    fn default() -> Self {
        Self { state: State::new(), writes_as_we_do: true }
    }
}

impl PeerSync {
    /// The state at the start of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next message for the peer; none if it has all we have, or if it must answer first.
    ///
    /// All changes made since the last message go into one. Call it again after each received
    /// message and after each change.
    pub fn generate(&mut self, replica: &dyn Doc) -> Option<Vec<u8>> {
        let message = replica.doc().generate_sync_message(&mut self.state)?;
        Some(message.encode())
    }

    /// Applies a message of the peer.
    ///
    /// A message that cannot be decoded, or that the engine panics on, leaves the document as it was. A replica that
    /// was empty reports all cells but no single outputs: there is nothing to compare with, read them all.
    pub fn receive<R: Replica>(
        &mut self,
        replica: &mut R,
        message: &[u8],
    ) -> Result<R::Changes, ReplicaError> {
        let before = replica.doc().get_heads();
        let decoded = catch_panic(|| decode(message, before.is_empty()));
        let (message, mut admitted) = decoded.unwrap_or_else(|| Err(bad("it breaks the decoder")))?;
        self.state.in_flight = false;
        let changes = apply_or_restore(replica, &before, |replica| {
            if message.changes.is_empty() {
                return Ok(Some(R::Changes::default()));
            }
            admitted.apply(replica.doc_mut(), &mut self.writes_as_we_do)?;
            let applied = admitted.kept(replica.doc(), &before);
            Ok(applied.map(|applied| match applied.changes().is_empty() && !applied.before.is_empty() {
                true => R::Changes::default(),
                false => replica.changed(&applied),
            }))
        })?;
        self.record(replica.doc(), &before, message);
        self.settle_filter(replica.doc());
        Ok(changes)
    }

    /// Records what a message announces about its sender. `doc` has applied its changes, and had the heads `before`.
    ///
    /// This is the second half of the engine's `receive_sync_message`, which cannot be used: it visits every ancestor
    /// of the peer's heads, so that each message would cost the whole history. It also assumes that a peer with our
    /// heads has received them from us; if it has not (the changes came in one message, the heads in the next), the
    /// peer still waits for the announcement that we have its changes.
    fn record(&mut self, doc: &Automerge, before: &[ChangeHash], message: Message) {
        let state = &mut self.state;
        if let Some(flags) = message.flags {
            // A peer that sends flags accepts messages of version 2.
            let resets = flags.contains(MessageFlags::SUPPORTS_SYNC_RESET).then_some(Capability::SyncReset);
            state.their_capabilities = Some([Capability::MessageV2].into_iter().chain(resets).collect());
            if flags.contains(MessageFlags::SYNC_RESET) {
                state.sent_hashes.clear();
            }
            state.peer_read_only = flags.contains(MessageFlags::READ_ONLY);
        }
        if !message.changes.is_empty() {
            let shared = &state.shared_heads;
            let heads = doc.get_heads().into_iter();
            state.shared_heads =
                heads.filter(|head| !before.contains(head) || shared.contains(head)).collect();
        }
        let (known, unknown): (Vec<ChangeHash>, Vec<ChangeHash>) =
            message.heads.iter().partition(|head| doc.get_change_meta_by_hash(head).is_some());
        forget_delivered(&mut state.sent_hashes, doc, &known);
        if unknown.is_empty() {
            state.shared_heads = known;
            if message.heads.is_empty() {
                // The peer has lost everything.
                state.sent_hashes.clear();
            }
        } else {
            state.shared_heads.extend(known);
            sort(&mut state.shared_heads);
        }
        state.their_have = Some(message.have);
        state.their_heads = Some(message.heads);
        state.their_need = Some(message.need);
    }

    /// Forgets the filter of the peer's last message if it lacks nothing of what we have.
    ///
    /// The filter covers the changes that exist when it arrives. About one later change in a hundred is a false
    /// positive, and would be withheld until the peer notices and asks. If the peer lacks something, later changes
    /// depend on that and are sent with it, whether the filter has them or not.
    fn settle_filter(&mut self, doc: &Automerge) {
        let Some([have]) = self.state.their_have.as_deref_mut() else { return };
        let heads = doc.get_heads();
        let known = |hash: &ChangeHash| have.bloom.contains_hash(hash);
        // One check is usually enough: the peer lacks a head, or we announced the same heads before.
        if !heads.iter().all(|head| known(head) || have.last_sync.contains(head)) {
            return;
        }
        if have.last_sync.iter().all(|hash| doc.get_change_meta_by_hash(hash).is_some())
            && doc.get_changes_meta(&have.last_sync).iter().all(|change| known(&change.hash))
        {
            *have = Have { last_sync: heads, ..Have::default() };
        }
    }

    /// The heads the peer announced last; none before its first message.
    pub fn their_heads(&self) -> Option<&[ChangeHash]> {
        self.state.their_heads.as_deref()
    }

    /// True if the peer announced heads we do not have: it has changes we lack, and the exchange must
    /// go on until this is false (protocol 2, section 5.5: a Bloom filter can withhold a change).
    pub fn missing(&self, replica: &dyn Doc) -> bool {
        self.their_heads().is_some_and(|theirs| {
            let ours = replica.doc().get_heads();
            theirs
                .iter()
                .any(|head| !ours.contains(head) && replica.doc().get_change_meta_by_hash(head).is_none())
        })
    }

    /// True if the peer has every change we have, by its own announcement.
    ///
    /// Nothing of ours depends on our heads, so the peer has one of them exactly if it announced it,
    /// or if it is known to be shared from an earlier announcement.
    pub fn acknowledged(&self, replica: &dyn Doc) -> bool {
        self.their_heads().is_some_and(|theirs| {
            replica
                .doc()
                .get_heads()
                .iter()
                .all(|head| theirs.contains(head) || self.state.shared_heads.contains(head))
        })
    }

    /// True if both sides have the same changes and both have announced it.
    pub fn converged(&self, replica: &dyn Doc) -> bool {
        let heads = replica.doc().get_heads();
        self.state.have_responded && self.their_heads() == Some(&heads) && self.state.last_sent_heads == heads
    }
}

/// A message that makes a peer announce everything it has that we do not, independent of any sync
/// state (protocol 2, section 5.5, document barrier). A peer with the same heads does not answer.
pub fn barrier(replica: &dyn Doc) -> Vec<u8> {
    let heads = replica.doc().get_heads();
    Message {
        heads: heads.clone(),
        need: Vec::new(),
        have: vec![Have { last_sync: heads, ..Have::default() }],
        changes: ChunkList::empty(),
        flags: None,
        version: MessageVersion::V2,
    }
    .encode()
}

fn bad(error: impl ToString) -> ReplicaError {
    ReplicaError::BadSync(error.to_string())
}

/// Decodes a message to a replica that is `empty` or not, and refuses what would make the engine panic later.
fn decode(bytes: &[u8], empty: bool) -> Result<(Message, Admitted), ReplicaError> {
    let mut message = Message::decode(bytes).map_err(bad)?;
    // The engine compares sorted lists, and repeats the heads it received in its own messages.
    sort(&mut message.heads);
    sort(&mut message.need);
    for have in &mut message.have {
        sort(&mut have.last_sync);
        if !sane_filter(&have.bloom.to_bytes()) {
            return Err(bad("unusable Bloom filter"));
        }
    }
    // The engine would silently skip what follows a damaged chunk, and never finish one that is too large.
    let admitted = admit_message(message.changes.iter(), empty).map_err(bad)?;
    Ok((message, admitted))
}

/// Removes from the changes that were `sent` to a peer those that it has: its heads, and their ancestors.
///
/// No change has a higher operation than one that depends on it. So the search ends where all operations are older than
/// those of the changes that were sent.
fn forget_delivered(sent: &mut BTreeSet<ChangeHash>, doc: &Automerge, heads: &[ChangeHash]) {
    let last_op = |hash: &ChangeHash| doc.get_change_meta_by_hash(hash).map(|change| change.max_op);
    let Some(oldest) = sent.iter().filter_map(last_op).min() else { return };
    let (mut next, mut seen) = (heads.to_vec(), HashSet::new());
    while let Some(hash) = next.pop() {
        let Some(change) = doc.get_change_meta_by_hash(&hash).filter(|change| change.max_op >= oldest) else {
            continue;
        };
        sent.remove(&hash);
        if sent.is_empty() {
            return;
        }
        next.extend(change.deps.iter().filter(|dep| seen.insert(**dep)));
    }
}

fn sort(hashes: &mut Vec<ChangeHash>) {
    hashes.sort_unstable();
    hashes.dedup();
}

/// An encoded filter: nothing at all, or entries, bits per entry, probes, bits. The engine divides by
/// the number of bits and allocates as many probes as the filter asks for.
fn sane_filter(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut next = || {
        let (value, width) = leb128(rest)?;
        rest = &rest[width..];
        Some(value)
    };
    match (next(), next(), next()) {
        (None, _, _) => bytes.is_empty(),
        (Some(_), Some(_), Some(probes)) => probes <= MAX_PROBES && !rest.is_empty(),
        _ => false,
    }
}
