-- Runs one cell of a shared notebook and prints its outputs as they come, with nothing but LuaJIT.
--
--   luajit run_cell.lua SOCKET NOTEBOOK_ID 'print(6 * 7)' [poll|wait|dispatch]
--
-- The last argument is how events are taken: by polling the queue's descriptor (as an event loop
-- would), by rtd_queue_wait (the default), or by a Lua function that rtd_queue_dispatch calls.
-- PYTHON names the interpreter that has runtimed-ffi installed.
--
-- Exit status: 0 the cell ran, 1 it failed, 2 anything else.

local ffi = require("ffi")

local function installed(option)
  local python = os.getenv("PYTHON") or "python3"
  local pipe = assert(io.popen(python .. " -m runtimed_ffi " .. option))
  local line = pipe:read("*l")
  pipe:close()
  return assert(line, "runtimed-ffi is not installed for " .. python)
end

-- The declarations are the slice of the C header between its two markers.
local header = assert(io.open(installed("--include") .. "/runtimed_ffi.h"))
ffi.cdef(header:read("*a"):match("/%* rtd%-cdef%-begin %*/(.*)/%* rtd%-cdef%-end %*/"))
header:close()
ffi.cdef [[
  struct pollfd { int fd; short events; short revents; };
  int poll(struct pollfd *fds, unsigned long count, int timeout);
]]
local rtd = ffi.load(installed("--library"))
local POLLIN = 1

local LAUNCH, RUN = 1, 2

local function last_error()
  local len = ffi.new("size_t[1]")
  rtd.rtd_last_error(nil, 0, len)
  local text = ffi.new("char[?]", tonumber(len[0]) + 1)
  rtd.rtd_last_error(text, len[0] + 1, len)
  return ffi.string(text)
end

local function check(rc, what)
  if rc ~= rtd.RTD_OK then
    error(what .. ": " .. ffi.string(rtd.rtd_result_name(rc)) .. ": " .. last_error(), 0)
  end
end

-- What to do with an event; returns the exit status at the end.
local function handle(session, code, event)
  local function text() return ffi.string(event.text, event.text_len) end
  local kind = event.kind
  if kind == rtd.RTD_EV_READY then -- the document is here: ask for a kernel
    local launch = '{"action":"launch_kernel","kernel_type":"python","env_source":"uv:prewarmed","notebook_path":null}'
    check(rtd.rtd_session_request(session, LAUNCH, launch, #launch, 120000), "launch")
  elseif kind == rtd.RTD_EV_RESPONSE then -- the kernel runs: add a cell and execute it
    if event.code ~= rtd.RTD_OK then error("launch: " .. text(), 0) end
    local cell = ffi.new("rtd_buf")
    check(rtd.rtd_doc_create_cell(rtd.rtd_session_doc(session), "code", 4, code, #code, -1, cell), "create cell")
    local id = ffi.string(cell.data, cell.len)
    rtd.rtd_buf_free(cell)
    check(rtd.rtd_session_execute(session, RUN, id, #id, 60000), "execute")
  elseif kind == rtd.RTD_EV_STARTED then
    print(("In [%d]"):format(tonumber(event.number)))
  elseif kind == rtd.RTD_EV_OUTPUT then
    print((text():gsub("\n$", "")))
    io.flush()
  elseif kind == rtd.RTD_EV_DONE then
    if event.code == rtd.RTD_DONE_OK then return 0 end
    io.stderr:write(("ended with %d: %s\n"):format(event.code, text()))
    return event.code == rtd.RTD_DONE_ERROR and 1 or 2
  elseif kind == rtd.RTD_EV_CLOSED then
    error("closed: " .. text(), 0)
  end
end

local wait = {}

function wait.poll(queue)
  local fds = ffi.new("struct pollfd[1]")
  fds[0].fd, fds[0].events = rtd.rtd_queue_fd(queue), POLLIN
  ffi.C.poll(fds, 1, -1)
end

function wait.wait(queue) check(rtd.rtd_queue_wait(queue, -1), "wait") end

-- Takes events one by one.
local function pull(session, code, wait_for_events)
  local queue = rtd.rtd_session_queue(session)
  local event = ffi.new("rtd_event")
  event.struct_size = ffi.sizeof("rtd_event")
  while true do
    local rc = rtd.rtd_queue_next(queue, event)
    if rc == rtd.RTD_OK then
      local status = handle(session, code, event)
      if status then return status end
    elseif rc == rtd.RTD_E_AGAIN then
      wait_for_events(queue)
    else
      check(rc, "next event")
    end
  end
end

-- Has the library call a Lua function. Compiled code must not call what calls back, hence jit.off;
-- and an error must not cross C, so it is kept and raised afterwards.
local function push(session, code)
  local queue = rtd.rtd_session_queue(session)
  local status, failure
  local on_event = ffi.cast("rtd_event_fn", function(_, event)
    if status or failure then return end
    local ok, result = pcall(handle, session, code, event)
    if ok then status = result else failure = result end
  end)
  local delivered = ffi.new("size_t[1]")
  while not status and not failure do
    wait.wait(queue)
    check(rtd.rtd_queue_dispatch(queue, on_event, nil, 100, delivered), "dispatch")
  end
  on_event:free()
  if failure then error(failure, 0) end
  return status
end
jit.off(push)

local function main(socket, notebook, code, way)
  way = way or "wait"
  if not code or not (wait[way] or way == "dispatch") then
    error("usage: run_cell.lua SOCKET NOTEBOOK_ID CODE [poll|wait|dispatch]", 0)
  end
  local out = ffi.new("rtd_session *[1]")
  check(rtd.rtd_session_open(socket, #socket, notebook, #notebook, nil, out), socket)
  local session = ffi.gc(out[0], rtd.rtd_session_free)
  local run = way == "dispatch" and push or pull
  local ok, result = pcall(run, session, code, wait[way])
  rtd.rtd_session_free(ffi.gc(session, nil))
  if not ok then error(result, 0) end
  return result
end

local ok, result = pcall(main, ...)
if not ok then
  io.stderr:write(result, "\n")
  result = 2
end
os.exit(result)
