//! Storey 1: the vocabulary of edits, as the C ABI spells it in JSON.

use serde::Deserialize;
use serde_json::Value;

use super::EditError;

/// One edit. A list of them is applied as one change (see [`Notebook::edit`](super::Notebook::edit)).
///
/// In JSON an edit is an object whose member `op` names it in snake case, beside its members; the
/// additional member `"if_present": true` makes it an [`Op::IfPresent`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// A new cell with an id that no cell has yet.
    InsertCell {
        /// Its id.
        cell_id: String,
        /// Its type.
        cell_type: String,
        /// Its source.
        source: String,
        /// Its place among the visible cells; the end if absent or beyond the end.
        #[serde(default)]
        index: Option<usize>,
    },
    /// Removes a cell.
    DeleteCell {
        /// The cell.
        cell_id: String,
    },
    /// Puts a cell elsewhere. The document has no notion of moving: the cell is removed and a copy
    /// inserted, so what a peer changes in it at the same time is lost.
    MoveCell {
        /// The cell.
        cell_id: String,
        /// Its place among the visible cells that remain when it is taken out.
        index: usize,
    },
    /// Changes the source into this text, touching only what differs.
    SetSource {
        /// The cell.
        cell_id: String,
        /// The new text.
        source: String,
    },
    /// Replaces a part of the source.
    SpliceSource {
        /// The cell.
        cell_id: String,
        /// Where, in code points.
        index: usize,
        /// How many code points to remove there.
        delete: usize,
        /// What to put there.
        insert: String,
    },
    /// Sets the type of a cell.
    SetCellType {
        /// The cell.
        cell_id: String,
        /// `code`, `markdown` or `raw`; not checked.
        cell_type: String,
    },
    /// Adds outputs after those of a cell.
    AppendOutputs {
        /// The cell.
        cell_id: String,
        /// The strings to store: nbformat output JSON or manifest hashes.
        outputs: Vec<String>,
    },
    /// Replaces one output.
    ReplaceOutput {
        /// The cell.
        cell_id: String,
        /// Which of the outputs readers see.
        index: usize,
        /// The string to store.
        output: String,
        /// What is there now; if it is something else, the edit is refused.
        #[serde(default)]
        expect: Option<String>,
    },
    /// Replaces some outputs that stand side by side by others, which may be more or fewer.
    ///
    /// Made for stream text that is written in pieces and then merged: a session takes a splice that
    /// reaches the end of the list for that, and does not deliver again what it has delivered. After any
    /// other splice it reports the cell's outputs again from the start.
    SpliceOutputs {
        /// The cell.
        cell_id: String,
        /// The first of the outputs readers see that goes; the number of them to insert at the end.
        index: usize,
        /// How many go.
        delete: usize,
        /// The strings to store in their place.
        outputs: Vec<String>,
        /// The strings that go, as the writer knows them; if they are others, the edit is refused.
        #[serde(default)]
        expect: Option<Vec<String>>,
    },
    /// Gives a cell a new empty list of outputs and no execution count. What a peer appends to the
    /// old list at the same time is lost (protocol 2, section 7.3).
    ClearOutputs {
        /// The cell.
        cell_id: String,
    },
    /// Sets the execution count.
    SetExecutionCount {
        /// The cell.
        cell_id: String,
        /// The number, or none for `null`. The member must be there.
        #[serde(deserialize_with = "Option::deserialize")]
        execution_count: Option<i64>,
    },
    /// Sets a string of `/metadata`.
    SetMetadata {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// An edit that is skipped silently if its cell does not exist, such as an output of a cell
    /// that a peer deleted while it ran.
    #[serde(skip)]
    IfPresent(Box<Op>),
}

impl Op {
    /// An [`Op::InsertCell`].
    pub fn insert_cell(cell_id: &str, cell_type: &str, source: &str, index: Option<usize>) -> Self {
        Self::InsertCell {
            cell_id: cell_id.to_owned(),
            cell_type: cell_type.to_owned(),
            source: source.to_owned(),
            index,
        }
    }

    /// This edit, skipped if its cell does not exist.
    pub fn if_present(self) -> Self {
        match self {
            Self::IfPresent(_) => self,
            other => Self::IfPresent(Box::new(other)),
        }
    }
}

/// Reads a JSON array of edits.
pub fn parse_ops(json: &[u8]) -> Result<Vec<Op>, EditError> {
    let ops: Vec<Value> = serde_json::from_slice(json).map_err(|e| EditError::BadOp(e.to_string()))?;
    ops.into_iter()
        .enumerate()
        .map(|(i, op)| parse_op(op).map_err(|text| EditError::BadOp(format!("number {i}: {text}"))))
        .collect()
}

fn parse_op(mut op: Value) -> Result<Op, String> {
    let if_present = match op.as_object_mut().and_then(|op| op.shift_remove("if_present")) {
        None => false,
        Some(Value::Bool(flag)) => flag,
        Some(other) => return Err(format!("if_present is {other}")),
    };
    let op: Op = serde_json::from_value(op).map_err(|e| e.to_string())?;
    Ok(if if_present { op.if_present() } else { op })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_vocabulary() {
        let json = r#"[
            {"op":"insert_cell","cell_id":"a","cell_type":"code","source":"x"},
            {"op":"insert_cell","cell_id":"a","cell_type":"code","source":"x","index":2},
            {"op":"delete_cell","cell_id":"a"},
            {"op":"move_cell","cell_id":"a","index":1},
            {"op":"set_source","cell_id":"a","source":"y"},
            {"op":"splice_source","cell_id":"a","index":1,"delete":2,"insert":"z"},
            {"op":"set_cell_type","cell_id":"a","cell_type":"raw"},
            {"op":"append_outputs","cell_id":"a","outputs":["1","2"],"if_present":true},
            {"op":"replace_output","cell_id":"a","index":0,"output":"3"},
            {"op":"splice_outputs","cell_id":"a","index":0,"delete":1,"outputs":[],"expect":["1"]},
            {"op":"clear_outputs","cell_id":"a","if_present":false},
            {"op":"set_execution_count","cell_id":"a","execution_count":null},
            {"op":"set_metadata","key":"k","value":"v"}
        ]"#;
        let ops = parse_ops(json.as_bytes()).unwrap();
        assert_eq!(ops.len(), 13);
        assert_eq!(ops[1], Op::insert_cell("a", "code", "x", Some(2)));
        assert_eq!(
            ops[7],
            Op::AppendOutputs { cell_id: "a".into(), outputs: vec!["1".into(), "2".into()] }.if_present()
        );
        assert_eq!(ops[7].clone().if_present(), ops[7]);
        assert_eq!(ops[10], Op::ClearOutputs { cell_id: "a".into() });
    }

    #[test]
    fn what_is_refused() {
        for json in [
            "",
            "{}",
            "[1]",
            "[[]]",
            r#"[{"op":"explode","cell_id":"a"}]"#,
            r#"[{"cell_id":"a"}]"#,
            r#"[{"op":"delete_cell"}]"#,
            r#"[{"op":"delete_cell","cell_id":1}]"#,
            r#"[{"op":"delete_cell","cell_id":"a","more":1}]"#,
            r#"[{"op":"delete_cell","cell_id":"a","if_present":1}]"#,
            r#"[{"op":"move_cell","cell_id":"a","index":-1}]"#,
            r#"[{"op":"move_cell","cell_id":"a","index":1.5}]"#,
            r#"[{"op":"set_execution_count","cell_id":"a"}]"#,
            r#"[{"op":"append_outputs","cell_id":"a","outputs":[{}]}]"#,
            r#"[{"op":"splice_outputs","cell_id":"a","index":0,"outputs":[]}]"#,
            r#"[{"op":"splice_outputs","cell_id":"a","index":0,"delete":-1,"outputs":[]}]"#,
            r#"[{"op":"if_present"}]"#,
            r#"[] []"#,
        ] {
            assert!(matches!(parse_ops(json.as_bytes()), Err(EditError::BadOp(_))), "{json}");
        }
        assert_eq!(parse_ops(b"[]").unwrap(), []);
    }
}
