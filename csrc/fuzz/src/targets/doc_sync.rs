//! Sync messages between two replicas, one of which gets what others made up. Invariants:
//! - a message that is refused is `BadSync` and leaves the document as it was;
//! - what a message changed is reported: every cell that is new or different, every change of the order and of the
//!   metadata; and repeating the reported changes of outputs gives the outputs;
//! - each replica can be read, saved and loaded whatever came;
//! - messages may be lost, doubled or late: over a new connection the replicas become equal. If one applied a change
//!   of the fuzzer it may have the actor of the other (Automerge keeps one change of an actor and a number, and
//!   refuses others); then each of them still becomes equal to an empty replica.

use std::collections::{BTreeMap, BTreeSet};

use runtimed_ffi::notebook::{Cell, Changes, Notebook, OutputChange};
use runtimed_ffi::replica::{barrier, PeerSync, ReplicaError};

use super::document::{cells_with_unseen_outputs, edit, empty_replica, examine, fix_checksums, room};
use super::script::{first, steps};

/// A new connection of two replicas that differ by this script takes a few rounds.
const MOST_ROUNDS: usize = 40;

struct Replica {
    notebook: Notebook,
    peer: PeerSync,
    /// Messages on their way to it.
    inbox: Vec<Vec<u8>>,
}

/// One byte for how the second replica begins and what is looked at in the end, then a script.
pub fn check(data: &[u8]) {
    let (flags, script) = first(data);
    let second = if flags & 1 == 0 { room(2) } else { empty_replica(2) };
    let mut replicas =
        [room(1), second].map(|notebook| Replica { notebook, peer: PeerSync::new(), inbox: Vec::new() });
    let mut made_up = false;
    for (what, with) in steps(script) {
        made_up |= step(&mut replicas, what, with);
    }
    let [mut a, mut b] = replicas.map(|replica| replica.notebook);
    if flags & 8 != 0 {
        examine(if flags & 2 == 0 { &a } else { &b });
    }
    if flags & 4 != 0 && !converge(&mut a, &mut b) {
        assert!(made_up, "an honest message is not taken");
        for known in [&mut a, &mut b] {
            assert!(converge(known, &mut empty_replica(3)), "what is kept cannot be sent");
        }
    }
}

/// Does one step; whether a message was taken that may have been made up.
fn step(replicas: &mut [Replica; 2], what: u8, with: &[u8]) -> bool {
    let (here, there) = (usize::from(what >> 7), usize::from(what >> 7 ^ 1));
    match what & 0x7f {
        0 => {
            let notebook = &mut replicas[here].notebook;
            let (before, op) = (notebook.heads(), edit(notebook, with));
            match notebook.edit(&[op]) {
                Ok(changed) => assert_eq!(changed, notebook.heads() != before),
                Err(_) => assert_eq!(notebook.heads(), before),
            }
        }
        1 => {
            let Replica { notebook, peer, .. } = &mut replicas[here];
            let message = peer.generate(notebook);
            replicas[there].inbox.extend(message);
        }
        2 => {
            let message = barrier(&replicas[here].notebook);
            replicas[there].inbox.push(message);
        }
        // Of the messages on their way one arrives: in order, late, doubled, or changed.
        3 => {
            let (which, change) = first(with);
            let inbox = &mut replicas[here].inbox;
            if inbox.is_empty() {
                return false;
            }
            let which = usize::from(which & 0x3f) % inbox.len();
            let mut message = if with.first().is_some_and(|byte| byte & 0x40 != 0) {
                inbox[which].clone()
            } else {
                inbox.remove(which)
            };
            for pair in change.chunks_exact(2) {
                let place = usize::from(pair[0]) % message.len();
                message[place] ^= pair[1];
            }
            fix_checksums(&mut message);
            return deliver(&mut replicas[here], &message) && !change.is_empty();
        }
        // All that were on their way are lost, and the connection with them.
        4 => {
            for replica in replicas {
                replica.inbox.clear();
                replica.peer = PeerSync::new();
            }
        }
        5 => return deliver(&mut replicas[here], with),
        _ => {
            let mut message = with.to_vec();
            fix_checksums(&mut message);
            return deliver(&mut replicas[here], &message);
        }
    }
    false
}

/// Gives a replica a message; whether it was taken. Its changes may wait for others then.
fn deliver(replica: &mut Replica, message: &[u8]) -> bool {
    let Replica { notebook, peer, .. } = replica;
    let (heads, cells, metadata) = (notebook.heads(), notebook.cells(), notebook.metadata());
    let mut unseen = cells_with_unseen_outputs(notebook);
    match peer.receive(notebook, message) {
        Ok(changes) if heads.is_empty() => assert!(notebook.is_empty() || changes.order),
        Ok(changes) => {
            if notebook.metadata() != metadata {
                assert!(changes.metadata, "a change of the metadata was not reported");
            }
            unseen.extend(cells_with_unseen_outputs(notebook));
            check_report(&cells, &notebook.cells(), &changes, &unseen);
        }
        Err(ReplicaError::BadSync(_)) => {
            assert_eq!(notebook.heads(), heads, "refused and applied");
            return false;
        }
        Err(other) => panic!("{other:?}"),
    }
    true
}

/// Compares the reported changes with the document, except the positions of outputs in cells with unseen ones.
fn check_report(before: &[Cell], after: &[Cell], changes: &Changes, unseen: &BTreeSet<String>) {
    let by_id = |cells: &[Cell]| -> Option<BTreeMap<String, Cell>> {
        let map: BTreeMap<_, _> = cells.iter().map(|cell| (cell.id.clone(), cell.clone())).collect();
        // Cells that share an id cannot be distinguished.
        (map.len() == cells.len()).then_some(map)
    };
    let (Some(old), Some(new)) = (by_id(before), by_id(after)) else { return };
    for id in &changes.cells {
        assert!(new.contains_key(id), "{id} is not there");
    }
    if !before.iter().map(|cell| &cell.id).eq(after.iter().map(|cell| &cell.id)) {
        assert!(changes.order, "a change of the order was not reported");
    }
    for (id, cell) in &new {
        let was = old.get(id);
        if was != Some(cell) {
            assert!(changes.cells.contains(id), "a change of {id} was not reported");
        }
        let Some(was) = was else { continue };
        let mut outputs = was.outputs.clone();
        let mut known = !unseen.contains(id);
        for change in changes.outputs.iter().filter(|change| change.cell_id() == id) {
            known &= repeat(&mut outputs, change);
        }
        if known {
            assert_eq!(outputs, cell.outputs, "{id}: {:?}", changes.outputs);
        }
    }
}

/// Applies a change to a list of outputs; false if it names positions that do not exist.
fn repeat(outputs: &mut Vec<String>, change: &OutputChange) -> bool {
    match change {
        OutputChange::Cleared { .. } => outputs.clear(),
        OutputChange::Inserted { index, element, .. } if *index <= outputs.len() => {
            outputs.insert(*index, element.clone());
        }
        OutputChange::Replaced { index, element, .. } if *index < outputs.len() => {
            outputs[*index].clone_from(element);
        }
        OutputChange::Joined { index, element, .. } if *index <= outputs.len() => {
            outputs.truncate(*index);
            outputs.push(element.clone());
        }
        _ => return false,
    }
    true
}

/// Exchanges messages over a new connection until the replicas are equal; false if one is refused.
fn converge(a: &mut Notebook, b: &mut Notebook) -> bool {
    let (mut of_a, mut of_b) = (PeerSync::new(), PeerSync::new());
    for _ in 0..MOST_ROUNDS {
        let (up, down) = (of_a.generate(a), of_b.generate(b));
        if up.is_none() && down.is_none() {
            assert_eq!(a.heads(), b.heads());
            assert_eq!(a.cells(), b.cells());
            assert_eq!(a.metadata(), b.metadata());
            assert!(of_a.converged(a) && of_b.converged(b));
            return true;
        }
        let up = up.map_or(Ok(Changes::default()), |message| of_b.receive(b, &message));
        let down = down.map_or(Ok(Changes::default()), |message| of_a.receive(a, &message));
        match up.and(down) {
            Ok(_) => {}
            Err(ReplicaError::BadSync(_)) => return false,
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("the replicas do not converge");
}
