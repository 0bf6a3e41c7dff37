//! Storey 1, the pool state channel (protocol 2, section 11.2).

use serde::{Deserialize, Serialize};

use super::pool::PoolError;
use crate::wire::message::{Body, Tag};

/// What a subscriber of the pool state gets: the current state, then one message for each change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolState {
    /// The error states of both pools.
    PoolState {
        /// Why the uv pool fails, if it does.
        uv_error: Option<PoolError>,
        /// Why the conda pool fails, if it does.
        conda_error: Option<PoolError>,
    },
}

impl Body for PoolState {
    const TAG: Tag = Tag::Member("event");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::Message;

    #[test]
    fn both_members_are_always_written() {
        let state = PoolState::PoolState { uv_error: None, conda_error: None };
        let json = br#"{"event":"pool_state","uv_error":null,"conda_error":null}"#;
        assert_eq!(Message::from(state.clone()).to_json(), json);
        let short = Message::parse(br#"{"event":"pool_state"}"#);
        assert_eq!(short, Ok(state.into()));
    }
}
