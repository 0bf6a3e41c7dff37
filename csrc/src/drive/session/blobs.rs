//! Storey 3: the directory of the session's blobs, and outputs read from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::core::Core;
use super::io::Shared;
use crate::code::rtd_output_change::{RTD_OUTPUT_JOINED, RTD_OUTPUT_REPLACED_ALL};
use crate::connection::Event;
use crate::drive::lock;
use crate::outputs::{self, BlobStore};

impl Shared {
    /// The directory that the caller named, else that of the daemon, else `blobs` beside the socket.
    pub(super) fn blobs_place(&self, core: &Core) -> PathBuf {
        let named = core.link.client.capabilities().get("blobs").and_then(Value::as_str).map(PathBuf::from);
        let beside = || self.socket_path.parent().unwrap_or(Path::new(".")).join("blobs");
        self.blobs_dir.clone().or(named).unwrap_or_else(beside)
    }

    pub(super) fn blobs_now(&self, place: PathBuf) -> Option<Arc<BlobStore>> {
        let mut blobs = lock(&self.blobs);
        if blobs.is_none() && place.is_dir() {
            *blobs = BlobStore::open(place).ok().map(Arc::new);
        }
        blobs.clone()
    }

    /// Turns the document's element of an output into the output, on the consumer's thread. Of stream
    /// text that was merged, only what was not delivered in pieces before is left.
    pub(super) fn resolve(&self, mut event: Event) -> Event {
        if !std::mem::take(&mut event.unresolved) {
            return event;
        }
        let place = self.blobs_place(&lock(&self.core));
        let blobs = self.blobs_now(place);
        let element = String::from_utf8_lossy(&event.payload).into_owned();
        let covered = event.covered.take();
        if covered.is_some() {
            event.code = RTD_OUTPUT_REPLACED_ALL as i32;
        }
        match outputs::resolve(&element, blobs.as_deref()) {
            Ok(mut output) => {
                if let Some(rest) =
                    covered.and_then(|old| outputs::continuation(&output, &old, blobs.as_deref()))
                {
                    event.code = RTD_OUTPUT_JOINED as i32;
                    output = rest;
                }
                event.text = outputs::plain_text(&output);
                event.payload = output.to_string().into_bytes();
            }
            Err(error) => {
                event.text = error.to_string();
                event.payload = Value::String(element).to_string().into_bytes();
            }
        }
        event
    }
}
