//! Random edits against a plain model, and random replicas that must agree in the end.
//!
//! The random numbers come from a fixed sequence, so a failure repeats; `NOTEBOOK_ROUNDS` multiplies
//! the number of rounds for a longer search.

use std::collections::BTreeMap;

use runtimed_ffi::notebook::{Cell, Changes, Notebook, Op, OutputChange};
use runtimed_ffi::replica::PeerSync;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Text of all kinds: beyond the BMP, combining marks, joined emoji, line ends, odd controls.
    fn text(&mut self, parts: usize) -> String {
        const PARTS: &[&str] = &[
            "a",
            "b",
            "print(1)",
            " ",
            "\n",
            "\r\n",
            "\r",
            "\t",
            "é",
            "e\u{301}",
            "ﬃ",
            "中文",
            "🐍",
            "👨‍👩‍👦",
            "🇩🇪",
            "\u{10ffff}",
            "\u{0}",
            "\u{2028}",
            "\u{fffc}",
            "\u{200f}אב",
            "\u{308}",
        ];
        let count = self.below(parts + 1);
        (0..count).map(|_| *self.pick(PARTS)).collect()
    }
}

fn rounds(base: usize) -> usize {
    let factor = std::env::var("NOTEBOOK_ROUNDS").ok().and_then(|n| n.parse().ok());
    base * factor.unwrap_or(1)
}

const IDS: &[&str] = &["a", "b", "c", "d", "e", "f"];

fn random_op(random: &mut Random, cell_id: String, moves: bool) -> Op {
    match random.below(if moves { 13 } else { 12 }) {
        0 | 1 => Op::InsertCell {
            cell_id,
            cell_type: "code".into(),
            source: random.text(6),
            index: [None, Some(random.below(5))][random.below(2)],
        },
        2 => Op::DeleteCell { cell_id },
        3 | 4 => Op::SetSource { cell_id, source: random.text(12) },
        5 => Op::SpliceSource {
            cell_id,
            index: random.below(6),
            delete: random.below(4),
            insert: random.text(4),
        },
        6 => Op::SetCellType { cell_id, cell_type: (*random.pick(&["code", "markdown", "raw"])).into() },
        7 | 8 => {
            Op::AppendOutputs { cell_id, outputs: (0..random.below(3)).map(|_| random.text(3)).collect() }
        }
        9 => match random.below(2) {
            0 => Op::ReplaceOutput {
                cell_id,
                index: random.below(4),
                output: random.text(3),
                expect: [None, Some(random.text(1))][random.below(2)].clone(),
            },
            _ => Op::ClearOutputs { cell_id },
        },
        10 => match random.below(2) {
            0 => Op::SetExecutionCount {
                cell_id,
                execution_count: [None, Some(random.below(9) as i64)][random.below(2)],
            },
            _ => Op::SetMetadata {
                key: (*random.pick(&["k", "notebook_metadata"])).into(),
                value: random.text(4),
            },
        },
        11 => Op::SpliceOutputs {
            cell_id,
            index: random.below(4),
            delete: random.below(4),
            outputs: (0..random.below(3)).map(|_| random.text(3)).collect(),
            expect: [None, None, Some(vec![random.text(1)])][random.below(3)].clone(),
        },
        _ => Op::MoveCell { cell_id, index: random.below(5) },
    }
}

/// What a notebook should be, in plain vectors.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    cells: Vec<Cell>,
    metadata: BTreeMap<String, String>,
}

impl Model {
    fn of(notebook: &Notebook) -> Self {
        Self { cells: notebook.cells(), metadata: notebook.metadata() }
    }

    fn place(&self, id: &str) -> Option<usize> {
        self.cells.iter().position(|cell| cell.id == id)
    }

    /// None if the edit must be refused.
    fn apply(&mut self, op: &Op) -> Option<()> {
        let id = match op {
            Op::IfPresent(op) => {
                let id = cell_of(op);
                return match id.is_none_or(|id| self.place(id).is_some() || inserts(op)) {
                    true => self.apply(op),
                    false => Some(()),
                };
            }
            Op::SetMetadata { key, value } => {
                self.metadata.insert(key.clone(), value.clone());
                return Some(());
            }
            Op::InsertCell { cell_id, cell_type, source, index } => {
                if self.place(cell_id).is_some() {
                    return None;
                }
                let index = index.unwrap_or(usize::MAX).min(self.cells.len());
                let cell = Cell {
                    id: cell_id.clone(),
                    cell_type: cell_type.clone(),
                    source: source.clone(),
                    ..Cell::default()
                };
                self.cells.insert(index, cell);
                return Some(());
            }
            other => cell_of(other)?,
        };
        let place = self.place(id)?;
        let cell = &mut self.cells[place];
        match op {
            Op::DeleteCell { .. } => drop(self.cells.remove(place)),
            Op::MoveCell { index, .. } => {
                let cell = self.cells.remove(place);
                self.cells.insert((*index).min(self.cells.len()), cell);
            }
            Op::SetSource { source, .. } => cell.source.clone_from(source),
            Op::SpliceSource { index, delete, insert, .. } => {
                let mut chars: Vec<char> = cell.source.chars().collect();
                if index + delete > chars.len() {
                    return None;
                }
                chars.splice(*index..index + delete, insert.chars());
                cell.source = chars.into_iter().collect();
            }
            Op::SetCellType { cell_type, .. } => cell.cell_type.clone_from(cell_type),
            Op::AppendOutputs { outputs, .. } => cell.outputs.extend_from_slice(outputs),
            Op::ReplaceOutput { index, output, expect, .. } => {
                let old = cell.outputs.get_mut(*index)?;
                if expect.as_ref().is_some_and(|expect| expect != old) {
                    return None;
                }
                old.clone_from(output);
            }
            Op::SpliceOutputs { index, delete, outputs, expect, .. } => {
                let end = index + delete;
                let old = cell.outputs.get(*index..end)?;
                if expect.as_ref().is_some_and(|expect| expect != old) {
                    return None;
                }
                cell.outputs.splice(*index..end, outputs.iter().cloned());
            }
            Op::ClearOutputs { .. } => {
                cell.outputs.clear();
                cell.execution_count = None;
            }
            Op::SetExecutionCount { execution_count, .. } => cell.execution_count = *execution_count,
            Op::InsertCell { .. } | Op::SetMetadata { .. } | Op::IfPresent(_) => unreachable!(),
        }
        Some(())
    }
}

fn inserts(op: &Op) -> bool {
    matches!(op, Op::InsertCell { .. })
}

fn cell_of(op: &Op) -> Option<&str> {
    match op {
        Op::InsertCell { cell_id, .. }
        | Op::DeleteCell { cell_id }
        | Op::MoveCell { cell_id, .. }
        | Op::SetSource { cell_id, .. }
        | Op::SpliceSource { cell_id, .. }
        | Op::SetCellType { cell_id, .. }
        | Op::AppendOutputs { cell_id, .. }
        | Op::ReplaceOutput { cell_id, .. }
        | Op::SpliceOutputs { cell_id, .. }
        | Op::ClearOutputs { cell_id }
        | Op::SetExecutionCount { cell_id, .. } => Some(cell_id),
        Op::SetMetadata { .. } => None,
        Op::IfPresent(op) => cell_of(op),
    }
}

/// The state in memory must equal what is read from the document.
fn check_against_saved(notebook: &Notebook) {
    let saved = Notebook::load(&notebook.save()).unwrap();
    assert_eq!(Model::of(notebook), Model::of(&saved));
    assert_eq!(notebook.cell_ids(), saved.cell_ids());
    for cell in notebook.cells() {
        assert_eq!(notebook.cell(&cell.id).as_ref(), Some(&cell));
        assert_eq!(notebook.source(&cell.id), Some(cell.source));
        assert_eq!(notebook.outputs(&cell.id), Some(cell.outputs));
    }
}

#[test]
fn edits_do_what_the_model_does() {
    let (mut done, mut refused, mut unchanged) = (0, 0, 0);
    for seed in 0..rounds(40) {
        let mut random = Random(seed as u64);
        let mut notebook = Notebook::create("n").unwrap();
        let mut model = Model::of(&notebook);
        for _ in 0..60 {
            let ops: Vec<Op> = (0..1 + random.below(3))
                .map(|_| {
                    let id = (*random.pick(IDS)).to_owned();
                    let op = random_op(&mut random, id, true);
                    if random.below(2) == 0 {
                        op.if_present()
                    } else {
                        op
                    }
                })
                .collect();
            let before = notebook.heads();
            let mut next = model.clone();
            let possible = ops.iter().try_for_each(|op| next.apply(op)).is_some();
            match notebook.edit(&ops) {
                Ok(changed) => {
                    assert!(possible, "seed {seed}: {ops:?}");
                    assert_eq!(changed, notebook.heads() != before);
                    assert!(changed || next == model);
                    unchanged += usize::from(!changed);
                    model = next;
                    done += 1;
                }
                Err(error) => {
                    assert!(!possible, "seed {seed}: {ops:?}: {error}");
                    assert_eq!(notebook.heads(), before);
                    refused += 1;
                }
            }
            assert_eq!(Model::of(&notebook), model, "seed {seed}: {ops:?}");
        }
        check_against_saved(&notebook);
    }
    assert!(done > 500 && refused > 500 && unchanged > 50, "{done} {refused} {unchanged}");
}

/// The outputs of all cells, repeated from what was reported.
type Mirror = BTreeMap<String, Vec<String>>;

fn mirror(notebook: &Notebook) -> Mirror {
    let cells = notebook.cells().into_iter();
    cells.map(|cell| (cell.id, cell.outputs)).collect()
}

fn repeat(mirror: &mut Mirror, changes: &Changes) {
    for change in &changes.outputs {
        match change.clone() {
            OutputChange::Cleared { cell_id } => mirror.entry(cell_id).or_default().clear(),
            OutputChange::Inserted { cell_id, index, element } => {
                mirror.entry(cell_id).or_default().insert(index, element)
            }
            OutputChange::Replaced { cell_id, index, element } => {
                mirror.get_mut(&cell_id).unwrap()[index] = element
            }
            OutputChange::Joined { cell_id, index, covered, element } => {
                let outputs = mirror.get_mut(&cell_id).unwrap();
                let gone: Vec<String> = outputs.drain(index..).collect();
                assert_eq!(gone, covered);
                outputs.push(element);
            }
        }
    }
}

/// One received message: what is reported must be all that changed.
fn receive(peer: &mut PeerSync, notebook: &mut Notebook, message: &[u8], seed: usize) {
    let joining = notebook.is_empty();
    let (before, mut repeated) = (Model::of(notebook), mirror(notebook));
    let changes = peer.receive(notebook, message).unwrap();
    let after = Model::of(notebook);
    let ids = |model: &Model| -> Vec<String> { model.cells.iter().map(|c| c.id.clone()).collect() };
    assert!(changes.order || ids(&before) == ids(&after), "seed {seed}");
    assert!(changes.metadata || before.metadata == after.metadata, "seed {seed}");
    for cell in &after.cells {
        let known = before.place(&cell.id).map(|place| &before.cells[place]);
        let reported = changes.cells.contains(&cell.id);
        assert!(reported || known == Some(cell), "seed {seed}: {cell:?} {changes:?}");
    }
    if !joining {
        repeat(&mut repeated, &changes);
        let now = mirror(notebook);
        for (id, outputs) in &now {
            let known = repeated.get(id).map_or(&[][..], |outputs| outputs);
            assert_eq!(known, outputs, "seed {seed}: cell {id}: {changes:?}");
        }
    }
    assert!(changes.cells.iter().all(|id| after.place(id).is_some()));
}

/// An edit of a cell this replica sees, or of a new cell with an id of its own. Only one replica may
/// move cells: a cell moved by two at once doubles, which the document cannot prevent, and then ids do
/// not identify cells.
fn replica_op(random: &mut Random, notebook: &Notebook, made: &mut usize, moves: bool) -> Op {
    let ids = notebook.cell_ids();
    let id = if ids.is_empty() { "none".to_owned() } else { random.pick(&ids).clone() };
    let mut op = random_op(random, id, moves);
    if let Op::InsertCell { cell_id, .. } = &mut op {
        *made += 1;
        *cell_id = format!("cell-{made}");
    }
    op
}

/// A room and two clients. All of them edit, messages arrive late, connections break.
#[test]
fn replicas_converge_and_report_what_they_see() {
    let (mut edits, mut messages) = (0, 0);
    for seed in 0..rounds(40) {
        let mut random = Random(seed as u64 ^ 0x5eed);
        let mut room = Notebook::create("n").unwrap();
        let mut clients = [Notebook::empty(), Notebook::empty()];
        let mut of_client = [PeerSync::new(), PeerSync::new()];
        let mut of_room = [PeerSync::new(), PeerSync::new()];
        let mut made = 0;
        for _ in 0..80 {
            let i = random.below(2);
            match random.below(8) {
                0..=2 => {
                    let ops: Vec<Op> = (0..1 + random.below(3))
                        .map(|_| replica_op(&mut random, &clients[i], &mut made, false))
                        .collect();
                    edits += usize::from(clients[i].edit(&ops).is_ok());
                }
                3 | 4 => {
                    let op = replica_op(&mut random, &room, &mut made, true);
                    edits += usize::from(room.edit(&[op]).is_ok());
                }
                5 if random.below(8) == 0 => {
                    of_client[i] = PeerSync::new();
                    of_room[i] = PeerSync::new();
                }
                _ => {
                    if let Some(message) = of_client[i].generate(&room) {
                        receive(&mut of_room[i], &mut clients[i], &message, seed);
                        messages += 1;
                    }
                    if let Some(message) = of_room[i].generate(&clients[i]) {
                        receive(&mut of_client[i], &mut room, &message, seed);
                        messages += 1;
                    }
                }
            }
        }
        for round in 0.. {
            assert!(round < 100, "seed {seed}: the exchange does not end");
            let mut quiet = true;
            for i in 0..2 {
                if let Some(message) = of_client[i].generate(&room) {
                    receive(&mut of_room[i], &mut clients[i], &message, seed);
                    quiet = false;
                }
                if let Some(message) = of_room[i].generate(&clients[i]) {
                    receive(&mut of_client[i], &mut room, &message, seed);
                    quiet = false;
                }
            }
            if quiet {
                break;
            }
        }
        for i in 0..2 {
            assert_eq!(clients[i].heads(), room.heads(), "seed {seed}");
            assert_eq!(Model::of(&clients[i]), Model::of(&room), "seed {seed}");
            assert!(of_client[i].converged(&room) && of_room[i].converged(&clients[i]));
            assert!(of_client[i].acknowledged(&room) && !of_client[i].missing(&room));
            check_against_saved(&clients[i]);
        }
        check_against_saved(&room);
    }
    assert!(edits > 500 && messages > 500, "{edits} {messages}");
}
