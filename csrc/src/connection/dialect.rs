//! Storey 2: which daemon or client is at the other end of a connection, known from its first frame.
//!
//! No other code in Rust, in the C ABI or in Python depends on the kind of daemon or client: it asks this module what
//! to do. A new version of the protocol is a new variant of [`Dialect`], chosen in [`Dialect::of`]; the compiler then
//! lists the decisions to take.

use serde_json::Value;

use super::Millis;
use crate::wire::handshake::{FirstFrame, Handshake, Protocol};

/// The member by which our clients and daemons recognise each other, in the handshake and in the capabilities.
pub(super) const OURS: &str = "rtd";

/// The member of the handshake in which a client announces where it reads outputs.
pub(super) const OUTPUTS: &str = "outputs";
/// Its value: from the document, so that it needs no broadcasts of them.
pub(super) const OUTPUTS_IN_DOCUMENT: &str = "document";

/// Milliseconds a request waits for changes that its sender announced but did not deliver.
const DEFER_LIMIT: Millis = 250;
/// The same for a client of ours, which delivers them unless it is broken or its machine is very busy.
const DEFER_LIMIT_OURS: Millis = 15_000;

/// The daemon, as a client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Protocol 1: sync messages and nothing else.
    Sync1,
    /// Protocol 2 as the reference daemon implements it.
    Reference2,
    /// Protocol 2 with our extension (`docs/protocol.md`).
    Ours2,
}

/// How a client learns the end of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndRule {
    /// One `execution_done` for each execution, with its status, after the last output.
    FinalEvent,
    /// Idle, then `execution_done`, then a document barrier (protocol 2, section 5.9).
    FinishRule,
}

/// How a client learns that both sides have the same document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// By a request with the member `sync`: the daemon's library answers it after everything it has to send.
    Ask,
    /// By a document barrier and any request after it.
    Barrier,
    /// By the heads that the daemon announces; it takes no requests.
    Heads,
}

impl Dialect {
    /// The daemon that begins with this frame.
    pub fn of(first: &FirstFrame) -> Self {
        match first {
            FirstFrame::V2(capabilities) if capabilities.extra.contains_key(OURS) => Self::Ours2,
            FirstFrame::V2(_) => Self::Reference2,
            FirstFrame::V1 => Self::Sync1,
        }
    }

    /// The version of the protocol, as the handshake writes it.
    pub fn version(self) -> &'static str {
        match self {
            Self::Sync1 => "v1",
            Self::Reference2 | Self::Ours2 => "v2",
        }
    }

    /// Whether frames carry a type, so that there are requests and broadcasts.
    pub fn typed(self) -> bool {
        self != Self::Sync1
    }

    /// Whether a broadcast follows all changes announced before it. The reference daemon promises no order.
    pub fn broadcasts_follow_changes(self) -> bool {
        self == Self::Ours2
    }

    /// How a client learns the ends of executions.
    pub fn ends(self) -> EndRule {
        match self {
            Self::Ours2 => EndRule::FinalEvent,
            Self::Sync1 | Self::Reference2 => EndRule::FinishRule,
        }
    }

    /// Whether a request to execute may overtake an edit made before it, because a Bloom filter withheld the edit
    /// (section 5.5). Our daemon lets such a request wait.
    pub fn may_miss_edits(self) -> bool {
        self != Self::Ours2
    }

    /// Whether the outputs of an execution are appended to those of the one before, so that a client has to clear them
    /// (section 14.1 item 9).
    pub fn clear_before_run(self) -> bool {
        self != Self::Ours2
    }

    /// How to learn that both sides have the same document.
    pub fn confirm(self) -> Confirm {
        match self {
            Self::Ours2 => Confirm::Ask,
            // It answers at once, and announces its changes some time later.
            Self::Reference2 => Confirm::Barrier,
            Self::Sync1 => Confirm::Heads,
        }
    }

    /// Whether stream text comes in pieces that are merged later. The reference keeps each piece as an output.
    pub fn stream_pieces(self) -> bool {
        self == Self::Ours2
    }
}

/// A client, as a server sees it: everything known from its handshake; the default before that.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerDialect {
    typed: bool,
    ours: bool,
    outputs_in_document: bool,
}

impl PeerDialect {
    /// The client that begins with this handshake.
    pub fn of(handshake: &Handshake) -> Self {
        Self {
            typed: handshake.channel.protocol() == Protocol::V2,
            ours: handshake.extra.contains_key(OURS),
            outputs_in_document: handshake.extra.get(OUTPUTS).and_then(Value::as_str)
                == Some(OUTPUTS_IN_DOCUMENT),
        }
    }

    /// Whether its frames carry a type.
    pub fn typed(self) -> bool {
        self.typed
    }

    /// Whether it answers sync messages at any time. The reference client answers none while it waits for a response
    /// (section 5.4).
    pub fn answers_sync(self) -> bool {
        self.ours
    }

    /// Whether it needs no broadcasts of outputs.
    pub fn reads_outputs_from_document(self) -> bool {
        self.outputs_in_document
    }

    /// How long its requests wait for changes that it announced but did not deliver.
    pub fn defer_limit(self) -> Millis {
        if self.ours {
            DEFER_LIMIT_OURS
        } else {
            DEFER_LIMIT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::handshake::first_frame;

    #[test]
    fn the_first_frame_decides_everything() {
        let of = |frame: &[u8]| Dialect::of(&first_frame(frame));
        assert_eq!(of(br#"{"protocol":"v2","rtd":1}"#), Dialect::Ours2);
        assert_eq!(of(br#"{"protocol":"v2","more":1}"#), Dialect::Reference2);
        assert_eq!(of(b"B\x00"), Dialect::Sync1);
        for (dialect, version, ends, confirm) in [
            (Dialect::Ours2, "v2", EndRule::FinalEvent, Confirm::Ask),
            (Dialect::Reference2, "v2", EndRule::FinishRule, Confirm::Barrier),
            (Dialect::Sync1, "v1", EndRule::FinishRule, Confirm::Heads),
        ] {
            assert_eq!((dialect.version(), dialect.ends(), dialect.confirm()), (version, ends, confirm));
            assert_eq!(dialect.typed(), dialect != Dialect::Sync1);
            let ours = dialect == Dialect::Ours2;
            assert_eq!((dialect.broadcasts_follow_changes(), dialect.stream_pieces()), (ours, ours));
            assert_eq!((dialect.may_miss_edits(), dialect.clear_before_run()), (!ours, !ours));
        }
    }

    #[test]
    fn a_handshake_says_what_its_client_does() {
        let of = |json: &[u8]| PeerDialect::of(&Handshake::parse(json).unwrap());
        let ours = of(
            br#"{"channel":"notebook_sync","notebook_id":"n","protocol":"v2","rtd":1,"outputs":"document"}"#,
        );
        assert!(ours.typed() && ours.answers_sync() && ours.reads_outputs_from_document());
        let other = of(br#"{"channel":"notebook_sync","notebook_id":"n","protocol":"v2","outputs":"no"}"#);
        assert!(other.typed() && !other.answers_sync() && !other.reads_outputs_from_document());
        assert!(!of(br#"{"channel":"notebook_sync","notebook_id":"n"}"#).typed());
        // The reference client is silent while it waits; ours delivers unless it is broken.
        assert_eq!((other.defer_limit(), ours.defer_limit()), (250, 15_000));
    }
}
