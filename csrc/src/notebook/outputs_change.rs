//! Storey 1: what a received message changed, in terms of cells and outputs.

use std::collections::BTreeSet;

/// What one received message changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The ids of the visible cells that are new or whose content changed in any way.
    pub cells: BTreeSet<String>,
    /// Cells were inserted, deleted or moved.
    pub order: bool,
    /// `/metadata` changed.
    pub metadata: bool,
    /// What happened to outputs, each cell's in the order to repeat it in. Between cells the order
    /// means nothing.
    pub outputs: Vec<OutputChange>,
}

impl Changes {
    /// True if nothing readers see changed.
    pub fn is_empty(&self) -> bool {
        !self.order && !self.metadata && self.cells.is_empty() && self.outputs.is_empty()
    }
}

/// One step of the change of a cell's outputs.
///
/// An `index` counts the elements of the stored list. Elements that are not scalar strings are not
/// reported although they count; no known writer makes any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputChange {
    /// All outputs are gone.
    Cleared {
        /// The cell.
        cell_id: String,
    },
    /// An output was added.
    Inserted {
        /// The cell.
        cell_id: String,
        /// Where it is now.
        index: usize,
        /// The stored string.
        element: String,
    },
    /// An output was replaced.
    Replaced {
        /// The cell.
        cell_id: String,
        /// Which one.
        index: usize,
        /// The stored string.
        element: String,
    },
    /// The outputs from an index to the end became one: pieces of stream text were merged.
    Joined {
        /// The cell.
        cell_id: String,
        /// The first of them, and where the one is now.
        index: usize,
        /// The stored strings that are gone. What was both added and merged since the last message is
        /// not among them.
        covered: Vec<String>,
        /// The stored string.
        element: String,
    },
}

impl OutputChange {
    /// The cell whose outputs changed.
    pub fn cell_id(&self) -> &str {
        match self {
            Self::Cleared { cell_id }
            | Self::Inserted { cell_id, .. }
            | Self::Replaced { cell_id, .. }
            | Self::Joined { cell_id, .. } => cell_id,
        }
    }
}
