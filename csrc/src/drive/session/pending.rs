//! Storey 3: the requests of a session, from the call that makes one to the event that ends it. One table.

use std::collections::VecDeque;

use crate::connection::{Millis, Queue};

/// What the response is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PendingKind {
    /// A request of the host program.
    Request,
    /// An execution. Its deadline and its end are kept by `Runs`.
    Execute,
    /// A `sync`; it ends when the documents are equal as well.
    Sync,
    /// The document barrier of `Runs`.
    Barrier,
    /// Clears the outputs of a cell before it runs.
    Clear,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PendingState {
    /// The response is to come.
    Waiting,
    /// The caller got the terminal event; the response is still to be read.
    Abandoned,
    /// The response came; changes of the document are still missing.
    Answered,
}

struct Pending {
    /// Id of the request; none if the daemon takes no requests.
    id: Option<u64>,
    /// Token of the caller; 0 for a request that the session makes itself.
    token: u64,
    kind: PendingKind,
    deadline: Option<Millis>,
    state: PendingState,
}

/// Everything that waits for the daemon, in the order of the calls.
#[derive(Default)]
pub(super) struct PendingTable {
    requests: VecDeque<Pending>,
    /// Executions, by token and cell, that are not sent before the daemon has all edits.
    pub(super) held: Vec<(u64, String)>,
    /// The answer of a barrier for which announced changes are still missing.
    pub(super) barrier: Option<Queue>,
}

impl PendingTable {
    /// A request was sent.
    pub(super) fn sent(&mut self, id: u64, kind: PendingKind, token: u64, deadline: Option<Millis>) {
        let state = PendingState::Waiting;
        self.requests.push_back(Pending { id: Some(id), token, kind, deadline, state });
    }

    /// Adds a sync that sends no request.
    pub(super) fn sync_without_request(&mut self, token: u64, deadline: Option<Millis>) {
        let (kind, state) = (PendingKind::Sync, PendingState::Answered);
        self.requests.push_back(Pending { id: None, token, kind, deadline, state });
    }

    /// A response came: returns what it is for, and the caller's token. `None` if there is nothing to do now.
    pub(super) fn responded(&mut self, id: u64) -> Option<(PendingKind, u64)> {
        let place = self.requests.iter().position(|pending| pending.id == Some(id))?;
        let pending = &mut self.requests[place];
        if pending.kind == PendingKind::Sync && pending.state == PendingState::Waiting {
            pending.state = PendingState::Answered;
            return None;
        }
        let pending = self.requests.remove(place)?;
        (pending.state == PendingState::Waiting).then_some((pending.kind, pending.token))
    }

    /// Whether a sync waits only until the documents are equal.
    pub(super) fn has_answered_sync(&self) -> bool {
        self.requests.iter().any(|pending| pending.state == PendingState::Answered)
    }

    /// Takes the tokens of those syncs.
    pub(super) fn take_answered_syncs(&mut self) -> Vec<u64> {
        let requests = std::mem::take(&mut self.requests).into_iter();
        let (answered, others): (VecDeque<_>, _) =
            requests.partition(|pending| pending.state == PendingState::Answered);
        self.requests = others;
        answered.into_iter().map(|pending| pending.token).collect()
    }

    /// Ends what is due; returns kind and token of each.
    pub(super) fn expire(&mut self, now: Millis) -> Vec<(PendingKind, u64)> {
        let mut ended = Vec::new();
        self.requests.retain_mut(|pending| {
            if pending.deadline.is_none_or(|at| at > now) {
                return true;
            }
            pending.deadline = None;
            ended.push((pending.kind, pending.token));
            std::mem::replace(&mut pending.state, PendingState::Abandoned) == PendingState::Waiting
        });
        ended
    }

    /// Empties the table: kind and token of everything that has no end yet.
    pub(super) fn end_all(&mut self) -> Vec<(PendingKind, u64)> {
        let all = std::mem::take(self).requests.into_iter();
        all.filter(|pending| pending.state != PendingState::Abandoned)
            .map(|pending| (pending.kind, pending.token))
            .collect()
    }

    /// When [`PendingTable::expire`] is due.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.requests.iter().filter_map(|pending| pending.deadline).min()
    }

    /// Number of requests, syncs and executions that the daemon has yet to accept.
    pub(super) fn unanswered(&self) -> usize {
        let of_session = |kind| matches!(kind, PendingKind::Barrier | PendingKind::Clear);
        self.held.len() + self.requests.iter().filter(|pending| !of_session(pending.kind)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::PendingKind::*;
    use super::*;

    #[test]
    fn a_token_used_twice_ends_twice() {
        let mut table = PendingTable::default();
        table.sent(1, Request, 7, None);
        table.sent(2, Request, 7, Some(10));
        assert_eq!(table.responded(1), Some((Request, 7)));
        assert_eq!(table.responded(1), None);
        assert_eq!((table.expire(9), table.expire(10)), (vec![], vec![(Request, 7)]));
        assert_eq!(table.deadline(), None);
    }

    #[test]
    fn an_abandoned_request_counts_until_its_response_comes_and_ends_no_second_time() {
        let mut table = PendingTable::default();
        table.sent(1, Request, 7, Some(10));
        table.sent(2, Sync, 8, Some(10));
        assert_eq!(table.expire(10), [(Request, 7), (Sync, 8)]);
        assert_eq!(table.unanswered(), 2);
        assert_eq!((table.responded(1), table.responded(2)), (None, None));
        assert_eq!((table.unanswered(), table.end_all()), (0, vec![]));
    }

    #[test]
    fn an_answered_sync_still_waits_for_the_document_and_its_deadline() {
        let mut table = PendingTable::default();
        table.sent(1, Sync, 7, Some(10));
        table.sync_without_request(8, None);
        table.sent(2, Sync, 9, None);
        assert_eq!(table.responded(1), None);
        assert_eq!(table.expire(10), [(Sync, 7)]);
        assert!(table.has_answered_sync());
        assert_eq!(table.take_answered_syncs(), [8]);
        assert!(!table.has_answered_sync());
        assert_eq!(table.end_all(), [(Sync, 9)]);
    }

    #[test]
    fn requests_of_the_session_itself_do_not_count() {
        let mut table = PendingTable::default();
        for (id, kind) in [(1, Clear), (2, Execute), (3, Barrier)] {
            table.sent(id, kind, 0, None);
        }
        table.held.push((5, "c".into()));
        assert_eq!(table.unanswered(), 2);
        assert_eq!(table.responded(3), Some((Barrier, 0)));
        assert_eq!(table.end_all(), [(Clear, 0), (Execute, 0)]);
        assert!(table.held.is_empty());
    }
}
