// Runs one cell of a shared notebook and prints its outputs as they come.
//
//   npm ci
//   node run_cell.js SOCKET NOTEBOOK_ID 'print(6 * 7)'
//
// PYTHON names the interpreter that has runtimed-ffi installed.
//
// Exit status: 0 the cell ran, 1 it failed, 2 anything else.
"use strict";
const { execFileSync } = require("node:child_process");
const { readFileSync } = require("node:fs");
const koffi = require("koffi");

const installed = (option) =>
  execFileSync(process.env.PYTHON || "python3", ["-m", "runtimed_ffi", option], { encoding: "utf8" }).trim();

// Names of numbers come from the C header, so that they are those of the library beside it.
const RTD = {};
const header = readFileSync(`${installed("--include")}/runtimed_ffi.h`, "utf8");
for (const [, name, value] of header.matchAll(/\b(RTD_\w+) = (-?\d+)/g)) RTD[name] = Number(value);

// Types and functions as the header declares them; _Out_ and _Inout_ declare to koffi which way values go.
for (const handle of ["rtd_session", "rtd_queue", "rtd_doc"]) koffi.opaque(handle);
koffi.struct("rtd_buf", { data: "uint8_t *", len: "size_t" });
koffi.struct("rtd_event", {
  struct_size: "uint32_t", kind: "int32_t", code: "int32_t", reserved: "int32_t",
  seq: "uint64_t", token: "uint64_t", peer: "uint64_t", number: "int64_t",
  id: "const void *", id_len: "size_t", payload: "const void *", payload_len: "size_t",
  text: "const void *", text_len: "size_t",
});
const library = koffi.load(installed("--library"));
const f = {};
for (const prototype of [
  "int32_t rtd_session_open(const char *path, size_t path_len, const char *id, size_t id_len, void *options, _Out_ rtd_session **out)",
  "rtd_queue *rtd_session_queue(rtd_session *session)",
  "rtd_doc *rtd_session_doc(rtd_session *session)",
  "int32_t rtd_queue_fd(rtd_queue *queue)",
  "int32_t rtd_queue_next(rtd_queue *queue, _Inout_ rtd_event *event)",
  "int32_t rtd_session_request(rtd_session *session, uint64_t token, const char *json, size_t len, int64_t timeout_ms)",
  "int32_t rtd_doc_create_cell(rtd_doc *doc, const char *type, size_t type_len, const char *source, size_t source_len, int64_t index, _Inout_ rtd_buf *cell_id)",
  "int32_t rtd_session_execute(rtd_session *session, uint64_t token, const char *cell_id, size_t len, int64_t timeout_ms)",
  "void rtd_session_free(rtd_session *session)",
  "void rtd_buf_free(_Inout_ rtd_buf *buf)",
  "int32_t rtd_last_error(_Out_ char *buf, size_t cap, _Out_ size_t *len)",
]) f[prototype.match(/rtd_\w+(?=\()/)[0]] = library.func(prototype);

const LAUNCH = 1, RUN = 2;
const utf8 = (string) => { const bytes = Buffer.from(string); return [bytes, bytes.length]; };
const text = (event) => (event.text_len ? koffi.decode.string(event.text, event.text_len) : "");

function check(code, what) {
  if (code === RTD.RTD_OK) return;
  const message = [" ".repeat(512)];
  f.rtd_last_error(message, 512, [0]);
  throw new Error(`${what}: ${message[0]}`);
}

function createCell(session, source) {
  const id = { data: null, len: 0 };
  check(f.rtd_doc_create_cell(f.rtd_session_doc(session), ...utf8("code"), ...utf8(source), -1, id), "create cell");
  const copy = koffi.decode.string(id.data, id.len);
  f.rtd_buf_free(id);
  return copy;
}

// What to do with an event; returns the exit status at the end.
function handle(session, code, event) {
  switch (event.kind) {
    case RTD.RTD_EV_READY: { // the document is here: ask for a kernel
      const launch = { action: "launch_kernel", kernel_type: "python", env_source: "uv:prewarmed", notebook_path: null };
      check(f.rtd_session_request(session, LAUNCH, ...utf8(JSON.stringify(launch)), 120000), "launch");
      break;
    }
    case RTD.RTD_EV_RESPONSE: // the kernel runs: add a cell and execute it
      if (event.code !== RTD.RTD_OK) throw new Error(`launch: ${text(event)}`);
      check(f.rtd_session_execute(session, RUN, ...utf8(createCell(session, code)), 60000), "execute");
      break;
    case RTD.RTD_EV_STARTED:
      console.log(`In [${event.number}]`);
      break;
    case RTD.RTD_EV_OUTPUT:
      console.log(text(event).replace(/\n$/, ""));
      break;
    case RTD.RTD_EV_DONE:
      if (event.code === RTD.RTD_DONE_OK) return 0;
      console.error(`ended with ${event.code}: ${text(event)}`);
      return event.code === RTD.RTD_DONE_ERROR ? 1 : 2;
    case RTD.RTD_EV_CLOSED:
      throw new Error(`closed: ${text(event)}`);
  }
}

// Takes events until none waits; returns the exit status at the end.
function takeEvents(session, code) {
  const queue = f.rtd_session_queue(session);
  const event = { struct_size: koffi.sizeof("rtd_event") };
  for (let rc; (rc = f.rtd_queue_next(queue, event)) !== RTD.RTD_E_AGAIN; ) {
    check(rc, "next event");
    const status = handle(session, code, event);
    if (status !== undefined) return status;
  }
}

// Node's own loop polls the queue's descriptor: no thread, no timer, and whatever else the program does goes on.
async function run(session, code) {
  let polling;
  try {
    return await new Promise((resolve, reject) => {
      polling = koffi.node.poll(f.rtd_queue_fd(f.rtd_session_queue(session)), { readable: true }, () => {
        try {
          const status = takeEvents(session, code);
          if (status !== undefined) resolve(status);
        } catch (error) {
          reject(error);
        }
      });
    });
  } finally {
    polling.close();
  }
}

async function main(socket, notebook, code) {
  if (code === undefined) throw new Error("usage: run_cell.js SOCKET NOTEBOOK_ID CODE");
  const out = [null];
  check(f.rtd_session_open(...utf8(socket), ...utf8(notebook), null, out), socket);
  try {
    return await run(out[0], code);
  } finally {
    f.rtd_session_free(out[0]);
  }
}

main(...process.argv.slice(2)).then(
  (status) => { process.exitCode = status; },
  (error) => { console.error(error.message); process.exitCode = 2; },
);
