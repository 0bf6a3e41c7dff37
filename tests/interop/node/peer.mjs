// Automerge of another language as a peer: documents and sync states, and both ends of a room on a socket.
//
// One JSON object per line on stdin asks, one on stdout answers: {"do": ..., ...} and {"ok": ...} or {"error": "..."}.
// Source: protocol 2, sections 2, 3, 5 and 7.

import net from "node:net"
import readline from "node:readline"
import * as Automerge from "@automerge/automerge"

const SYNC = 0, REQUEST = 1, RESPONSE = 2
const documents = new Map(), states = new Map(), clients = new Map(), servers = new Map()

// --- documents

const scalar = text => new Automerge.ImmutableString(text)
const isScalar = value => value instanceof Automerge.ImmutableString

// A room's document as section 7.2 has it.
function create(id) {
  return Automerge.change(Automerge.init(), doc => {
    doc.notebook_id = scalar(id)
    doc.cells = []
    doc.metadata = {}
    doc.metadata.runtime = scalar("python")
  })
}

// What a reader sees, in the form of rtd_doc_cells().
function cells(doc) {
  const list = Array.isArray(doc.cells) ? doc.cells : []
  return list.filter(cell => isScalar(cell?.id)).map(cell => ({
    id: cell.id.toString(),
    cell_type: isScalar(cell.cell_type) ? cell.cell_type.toString() : "",
    source: typeof cell.source === "string" ? cell.source : "",
    execution_count: isScalar(cell.execution_count) ? count(cell.execution_count.toString()) : null,
    outputs: Array.isArray(cell.outputs) ? cell.outputs.filter(isScalar).map(String) : [],
  }))
}

function count(text) {
  return /^(0|-?[1-9][0-9]*)$/.test(text) ? Number(text) : null
}

// Code points in the question, UTF-16 units in the library.
const units = (text, points) => Array.from(text).slice(0, points).join("").length

const EDITS = {
  insert_cell(doc, op) {
    const cell = { id: scalar(op.cell_id), cell_type: scalar(op.cell_type), source: op.source, execution_count: scalar("null"), outputs: [] }
    doc.cells.splice(Math.min(op.index ?? doc.cells.length, doc.cells.length), 0, cell)
  },
  delete_cell(doc, op) {
    doc.cells.splice(place(doc, op.cell_id), 1)
  },
  set_source(doc, op) {
    Automerge.updateText(doc, ["cells", place(doc, op.cell_id), "source"], op.source)
  },
  splice_source(doc, op) {
    const at = place(doc, op.cell_id), text = doc.cells[at].source
    const start = units(text, op.index), end = units(text, op.index + op.delete)
    Automerge.splice(doc, ["cells", at, "source"], start, end - start, op.insert)
  },
  set_cell_type(doc, op) {
    doc.cells[place(doc, op.cell_id)].cell_type = scalar(op.cell_type)
  },
  append_outputs(doc, op) {
    doc.cells[place(doc, op.cell_id)].outputs.push(...op.outputs.map(scalar))
  },
  clear_outputs(doc, op) {
    Object.assign(doc.cells[place(doc, op.cell_id)], { outputs: [], execution_count: scalar("null") })
  },
  set_execution_count(doc, op) {
    doc.cells[place(doc, op.cell_id)].execution_count = scalar(JSON.stringify(op.execution_count))
  },
  set_metadata(doc, op) {
    doc.metadata[op.key] = scalar(op.value)
  },
}

function place(doc, id) {
  const found = doc.cells.findIndex(cell => cell.id.toString() === id)
  if (found < 0) throw new Error(`no such cell: ${id}`)
  return found
}

const edit = (doc, ops) => Automerge.change(doc, draft => ops.forEach(op => EDITS[op.op](draft, op)))

function metadata(doc) {
  const entries = Object.entries(doc.metadata ?? {}).filter(([, value]) => isScalar(value))
  return Object.fromEntries(entries.map(([key, value]) => [key, value.toString()]))
}

const heads = doc => Automerge.getHeads(doc).sort()

// --- frames

const hex = bytes => Buffer.from(bytes).toString("hex")
const bytes = text => new Uint8Array(Buffer.from(text, "hex"))

function frame(payload) {
  const header = Buffer.alloc(4)
  header.writeUInt32BE(payload.length)
  return Buffer.concat([header, payload])
}

const typed = (kind, payload) => frame(Buffer.concat([Buffer.from([kind]), Buffer.from(payload)]))

// Calls `take` with the payload of each frame of a socket.
function frames(socket, take) {
  let waiting = Buffer.alloc(0)
  socket.on("data", data => {
    waiting = Buffer.concat([waiting, data])
    while (waiting.length >= 4 && waiting.length >= 4 + waiting.readUInt32BE()) {
      const end = 4 + waiting.readUInt32BE()
      const payload = waiting.subarray(4, end)
      waiting = waiting.subarray(end)
      take(payload)
    }
  })
}

// --- a client of a room

class Client {
  constructor(path, notebookId, plain) {
    this.doc = Automerge.init()
    this.state = Automerge.initSyncState()
    this.responses = []
    this.broadcasts = []
    this.waiting = []
    this.capabilities = null
    this.ready = false
    this.ended = false
    this.socket = net.connect(path)
    const hello = { channel: "notebook_sync", notebook_id: notebookId, protocol: "v2" }
    this.socket.write(frame(Buffer.from(JSON.stringify(plain ? hello : { ...hello, x_node: true }))))
    frames(this.socket, payload => this.take(payload))
    this.socket.on("close", () => { this.ended = true; this.look() })
    this.socket.on("error", () => {})
  }

  take(payload) {
    if (this.capabilities === null) {
      this.capabilities = JSON.parse(payload)
    } else if (payload[0] === SYNC) {
      [this.doc, this.state] = Automerge.receiveSyncMessage(this.doc, this.state, new Uint8Array(payload.subarray(1)))
      this.ready = true
      this.say()
    } else if (payload[0] === RESPONSE) {
      this.responses.push(JSON.parse(payload.subarray(1)))
    } else {
      this.broadcasts.push(JSON.parse(payload.subarray(1)))
    }
    this.look()
  }

  say() {
    const [state, message] = Automerge.generateSyncMessage(this.doc, this.state)
    this.state = state
    if (message !== null) this.socket.write(typed(SYNC, message))
  }

  edit(ops) {
    this.doc = edit(this.doc, ops)
    this.say()
  }

  request(message) {
    this.socket.write(typed(REQUEST, Buffer.from(JSON.stringify(message))))
  }

  // Answers once the condition holds, or the connection has ended.
  until(condition) {
    return new Promise(resolve => { this.waiting.push([condition, resolve]); this.look() })
  }

  look() {
    this.waiting = this.waiting.filter(([condition, resolve]) => {
      const over = this.ended || condition()
      if (over) resolve(!this.ended)
      return !over
    })
  }
}

// --- a server of rooms

class Server {
  constructor(path) {
    this.rooms = new Map()
    this.requests = []
    this.sockets = new Set()
    this.server = net.createServer(socket => this.accept(socket))
    this.listening = new Promise(resolve => this.server.listen(path, resolve))
  }

  room(id) {
    if (!this.rooms.has(id)) this.rooms.set(id, { doc: create(id), peers: new Set() })
    return this.rooms.get(id)
  }

  accept(socket) {
    let room = null
    const peer = { state: Automerge.initSyncState(), socket }
    this.sockets.add(socket)
    socket.on("error", () => {})
    socket.on("close", () => { this.sockets.delete(socket); room?.peers.delete(peer) })
    frames(socket, payload => {
      if (room === null) {
        const hello = JSON.parse(payload)
        room = this.room(hello.notebook_id)
        room.peers.add(peer)
        socket.write(frame(Buffer.from('{"protocol":"v2"}')))
        this.push(room, peer)
      } else if (payload[0] === SYNC) {
        [room.doc, peer.state] = Automerge.receiveSyncMessage(room.doc, peer.state, new Uint8Array(payload.subarray(1)))
        for (const each of room.peers) this.push(room, each)
      } else if (payload[0] === REQUEST) {
        const request = JSON.parse(payload.subarray(1))
        this.requests.push(request)
        socket.write(typed(RESPONSE, Buffer.from(JSON.stringify(this.answer(request)))))
      }
    })
  }

  answer(request) {
    if (request.action === "get_queue_state") return { result: "queue_state", executing: null, queued: [] }
    if (request.action === "get_kernel_info") return { result: "kernel_info", kernel_type: null, env_source: null, status: "not_started" }
    return { result: "no_kernel" }
  }

  push(room, peer) {
    const [state, message] = Automerge.generateSyncMessage(room.doc, peer.state)
    peer.state = state
    if (message !== null) peer.socket.write(typed(SYNC, message))
  }

  edit(id, ops) {
    const room = this.room(id)
    room.doc = edit(room.doc, ops)
    for (const peer of room.peers) this.push(room, peer)
  }

  close() {
    for (const socket of this.sockets) socket.destroy()
    return new Promise(resolve => this.server.close(resolve))
  }
}

// --- questions

const doc = name => {
  if (!documents.has(name)) throw new Error(`no such document: ${name}`)
  return documents.get(name)
}

const ANSWERS = {
  new: ({ name }) => { documents.set(name, Automerge.init()) },
  create: ({ name, id }) => { documents.set(name, create(id)) },
  load: ({ name, data }) => { documents.set(name, Automerge.load(bytes(data))) },
  copy: ({ name, of }) => { documents.set(name, Automerge.clone(doc(of))) },
  save: ({ name }) => hex(Automerge.save(doc(name))),
  edit: ({ name, ops }) => { documents.set(name, edit(doc(name), ops)) },
  read: ({ name }) => ({ cells: cells(doc(name)), metadata: metadata(doc(name)), heads: heads(doc(name)) }),
  state: ({ name }) => { states.set(name, Automerge.initSyncState()) },
  generate: ({ name, state }) => {
    const [next, message] = Automerge.generateSyncMessage(doc(name), states.get(state))
    states.set(state, next)
    return message === null ? null : hex(message)
  },
  receive: ({ name, state, message }) => {
    const [next, after] = Automerge.receiveSyncMessage(doc(name), states.get(state), bytes(message))
    documents.set(name, next)
    states.set(state, after)
  },
  connect: async ({ name, path, id, plain }) => {
    const client = new Client(path, id, plain)
    clients.set(name, client)
    return await client.until(() => client.ready)
  },
  client_edit: ({ name, ops }) => clients.get(name).edit(ops),
  client_read: ({ name }) => {
    const client = clients.get(name)
    return { cells: cells(client.doc), metadata: metadata(client.doc), heads: heads(client.doc), capabilities: client.capabilities, ended: client.ended }
  },
  client_ask: async ({ name, message }) => {
    const client = clients.get(name), number = client.responses.length
    client.request(message)
    await client.until(() => client.responses.length > number)
    return client.responses[number] ?? null
  },
  client_until: async ({ name, heads: wanted }) => {
    const client = clients.get(name)
    return await client.until(() => JSON.stringify(heads(client.doc)) === JSON.stringify(wanted))
  },
  client_until_cells: async ({ name, ids }) => {
    const client = clients.get(name)
    return await client.until(() => ids.every(id => cells(client.doc).some(cell => cell.id === id)))
  },
  client_close: ({ name }) => { clients.get(name).socket.destroy() },
  serve: async ({ name, path }) => { servers.set(name, new Server(path)); await servers.get(name).listening },
  server_edit: ({ name, id, ops }) => servers.get(name).edit(id, ops),
  server_read: ({ name, id }) => {
    const { doc } = servers.get(name).room(id)
    return { cells: cells(doc), metadata: metadata(doc), heads: heads(doc), requests: servers.get(name).requests }
  },
  server_close: ({ name }) => servers.get(name).close(),
}

// Questions are answered one after the other, so that answers come in their order.
let before = Promise.resolve()
const lines = readline.createInterface({ input: process.stdin })
lines.on("line", line => {
  before = before.then(async () => {
    let answer
    try {
      const question = JSON.parse(line)
      answer = { ok: (await ANSWERS[question.do](question)) ?? null }
    } catch (error) {
      answer = { error: String(error) }
    }
    process.stdout.write(JSON.stringify(answer) + "\n")
  })
})
lines.on("close", () => process.exit(0))
