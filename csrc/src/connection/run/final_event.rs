//! Storey 2: the end of an execution as our daemon reports it, by one `execution_done` with a status, after the last
//! output.

use super::{Run, Runs};
use crate::code::rtd_done::*;
use crate::wire::v2::Broadcast;
use crate::wire::Message;

impl Runs {
    pub(super) fn final_event(&mut self, message: &Message<Broadcast>, raw: &[u8]) {
        let Some(id) = message.execution_id() else { return };
        let concerns = |run: &Run| run.execution_id.as_deref() == Some(id);
        match &message.body {
            Broadcast::ExecutionStarted { execution_count, .. } => self.started(*execution_count, concerns),
            Broadcast::ExecutionDone { .. } => {
                let end = match message.status() {
                    Some("ok") => RTD_DONE_OK,
                    Some("interrupted") => RTD_DONE_INTERRUPTED,
                    Some("cancelled") => RTD_DONE_CANCELLED,
                    Some("kernel_died") => RTD_DONE_KERNEL_DIED,
                    Some("launch_failed") => RTD_DONE_LAUNCH_FAILED,
                    _ => RTD_DONE_ERROR,
                };
                let (reason, count) = (message.reason().unwrap_or_default(), message.execution_count());
                while let Some(place) = self.runs.iter().position(concerns) {
                    let run = &mut self.runs[place];
                    run.count = count.or(run.count);
                    self.finish(place, end, reason, raw.to_vec());
                }
            }
            _ => {}
        }
    }
}
