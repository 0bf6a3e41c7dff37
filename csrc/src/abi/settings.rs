//! Storey 4, the settings of a host: a document that peers share.

use std::ffi::c_char;
use std::path::Path;

use super::buf::{rtd_buf, write_json};
use super::guard::{bytes, guard, text};
use super::host::{live, object, rtd_host};
use super::rtd_result;

/// Opens the settings (protocol 2, section 11.1) for the peers of the settings channel; before this, the host closes
/// their connections. With a journal, the document is loaded from it, and every change is appended to it before it is
/// acknowledged; a new document has the defaults. Members that older programs wrote are moved to where they are now.
///
/// \param host the host
/// \param journal_path file of the document in UTF-8; NULL: in memory only
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_STATE when they are open or in a forked child; RTD_E_CORRUPT when the file cannot be read (it
///   stays as it is); RTD_E_IO; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_open_settings(
    host: *const rtd_host,
    journal_path: *const c_char,
    len: usize,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let host = live(host)?;
        let path = text(journal_path, len, "journal_path")?;
        Ok(host.open_settings((!path.is_empty()).then(|| Path::new(path)))?)
    })
}

/// The settings, as a JSON object: theme, default_runtime, default_python_env, uv.default_packages,
/// conda.default_packages (the default where no usable value is set), then members that peers added.
///
/// \param host the host
/// \param out receives the JSON; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_STATE when they are not open or in a forked child; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_settings(host: *const rtd_host, out: *mut rtd_buf) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { write_json(out, &live(host)?.settings()?) })
}

/// Changes the settings and sends the change to the peers. Members that are missing or equal stay as they are; objects
/// are compared member by member, a list is replaced as a whole. The member `$schema` is ignored.
///
/// \param host the host
/// \param members JSON object as rtd_host_settings() gives it, or part of it
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_ARG when a member has the wrong type (nothing changes then); RTD_E_STATE when
///   they are not open or in a forked child; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_change_settings(
    host: *const rtd_host,
    members: *const u8,
    len: usize,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        Ok(live(host)?.change_settings(&object(bytes(members, len, "members")?, "members")?)?)
    })
}
