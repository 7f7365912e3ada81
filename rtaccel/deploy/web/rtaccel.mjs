// A model by `rtaccel pack --isa wasm` in JavaScript: a browser, a worker, Node.
//
// The module imports nothing. Model.load gives it memory for the model, its inputs and its outputs; step() asks for no more.

const DTYPES = [Float32Array, Int8Array, BigInt64Array, Int32Array, Uint8Array, Uint16Array, Uint16Array, Int16Array];
const NAMES = ["float32", "int8", "int64", "int32", "uint8", "bfloat16", "float16", "int16"];
const PAGE = 65536;

/** What the core refuses: its text, and the number of rta_code in rta_model.h. */
export class ModelError extends Error {
  constructor(text, code) {
    super(text);
    this.name = "ModelError";
    this.code = code;
  }
}

/** The bytes at a URL, in Node of a file too. */
export async function bytesOf(url) {
  try {
    if (url.protocol === "file:") return new Uint8Array(await (await import("node:fs/promises")).readFile(url));
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    return new Uint8Array(await answer.arrayBuffer());
  } catch (error) {
    throw new ModelError(`${url}: ${error.message}`, 1);
  }
}

const aligned = (at) => (at + 63) & ~63;

export class Model {
  #exports;
  #model;
  #samples;
  #count;
  #inputs;
  #outputs;
  #state;

  /**
   * source: the URL of the module, or its bytes. file: bytes of the model, null where it is within the module. memoryBytes: what
   * the model needs. samples: of a step; for a stream, its streams.
   */
  static async load(source, { file = null, embedded = null, memoryBytes, samples = null }) {
    const { instance } = await WebAssembly.instantiate(source instanceof URL ? await bytesOf(source) : source, {});
    return new Model(instance.exports, file, embedded, memoryBytes, samples);
  }

  constructor(exports, file, embedded, memoryBytes, samples) {
    this.#exports = exports;
    exports._initialize();
    let end = aligned(exports.__heap_base.value);
    const take = (count) => {
      const at = end;
      end = aligned(end + count);
      const missing = Math.ceil((end - exports.memory.buffer.byteLength) / PAGE);
      if (missing > 0) exports.memory.grow(missing);
      return at;
    };
    let at, size;
    if (embedded) {
      at = exports[embedded.name].value;
      size = embedded.bytes;
    } else {
      if (!(file instanceof Uint8Array)) throw new ModelError("the model's file: expected a Uint8Array of its bytes", 8);
      at = take(file.length);
      size = file.length;
      new Uint8Array(exports.memory.buffer, at, size).set(file);
    }
    const region = take(memoryBytes);
    this.#model = exports.rta_model_within(at, size, 0, 1, region, memoryBytes);
    if (!this.#model) throw this.#refused();
    this.streams = Number(exports.rta_model_streams(this.#model));
    this.#samples = samples ?? (this.streams || 1);
    this.#count = BigInt(this.#samples);
    /** {name, dtype, shape, elements}: -1 in a shape is any size, elements are those of one sample. */
    this.inputs = this.#edges(0, take(96));
    this.outputs = this.#edges(1, take(96));
    const place = (edges) => {
      const pointers = take(4 * edges.length);
      const places = edges.map(({ dtype, elements }) => {
        const type = DTYPES[NAMES.indexOf(dtype)];
        const length = elements * this.#samples;
        return { type, length, at: take(Math.max(1, length * type.BYTES_PER_ELEMENT)), view: null };
      });
      new Uint32Array(exports.memory.buffer, pointers, places.length).set(places.map((p) => p.at));
      return { pointers, places };
    };
    this.#inputs = place(this.inputs);
    this.#outputs = place(this.outputs);
    this.stateBytes = exports.rta_model_state_bytes(this.#model);
    this.#state = take(this.stateBytes + 1);
  }

  #refused() {
    return new ModelError(this.#text(this.#exports.rta_error()), this.#exports.rta_error_code());
  }

  #text(at) {
    const bytes = new Uint8Array(this.#exports.memory.buffer, at);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }

  #edges(outputs, scratch) {
    const edges = [];
    for (let i = 0; i < this.#exports.rta_model_count(this.#model, outputs); ++i) {
      this.#exports.rta_model_tensor(this.#model, outputs, i, scratch);
      const view = new DataView(this.#exports.memory.buffer, scratch, 96);
      const rank = view.getInt32(8, true);
      const shape = Array.from({ length: rank }, (_, d) => Number(view.getBigInt64(16 + 8 * d, true)));
      const name = this.#text(view.getUint32(0, true));
      edges.push({ name, dtype: NAMES[view.getInt32(4, true)], shape, elements: Number(view.getBigInt64(80, true)) });
    }
    return edges;
  }

  #view(place) {
    if (!place) throw new ModelError("no such input or output", 8);
    if (place.view === null || place.view.buffer !== this.#exports.memory.buffer)
      place.view = new place.type(this.#exports.memory.buffer, place.at, place.length);
    return place.view;
  }

  /** Where input i lies: write there, then step(). */
  input(i = 0) {
    return this.#view(this.#inputs.places[i]);
  }

  /** Where output i lies; the next step writes it again. */
  output(i = 0) {
    return this.#view(this.#outputs.places[i]);
  }

  /** One step; arrays given are copied to the inputs first. Returns the first output, as output(0). */
  step(...arrays) {
    if (!this.#model) throw new ModelError("the model is closed", 8);
    if (arrays.length && arrays.length !== this.inputs.length)
      throw new ModelError(`${arrays.length} inputs, expected ${this.inputs.length}`, 8);
    for (let i = 0; i < arrays.length; ++i) {
      const to = this.input(i);
      if (arrays[i].constructor !== to.constructor || arrays[i].length !== to.length)
        throw new ModelError(
          `input ${this.inputs[i].name}: ${arrays[i].constructor.name} of ${arrays[i].length}, expected ` +
            `${to.constructor.name} of ${to.length}`, 8);
    }
    for (let i = 0; i < arrays.length; ++i) this.input(i).set(arrays[i]);
    if (this.#exports.rta_model_step(this.#model, this.#inputs.pointers, this.#outputs.pointers, this.#count))
      throw this.#refused();
    return this.output(0);
  }

  /** Streams start again: all, or `count` from `first` on. */
  reset(first = 0, count = this.streams - first) {
    if (this.#exports.rta_model_reset(this.#model, BigInt(first), BigInt(count))) throw this.#refused();
  }

  /** The past of all streams, as bytes. */
  saveState() {
    this.#exports.rta_model_save_state(this.#model, this.#state);
    return new Uint8Array(this.#exports.memory.buffer, this.#state, this.stateBytes).slice();
  }

  loadState(bytes) {
    if (bytes.length !== this.stateBytes) throw new ModelError(`${bytes.length} bytes, expected ${this.stateBytes}`, 8);
    new Uint8Array(this.#exports.memory.buffer, this.#state, this.stateBytes).set(bytes);
    if (this.#exports.rta_model_load_state(this.#model, this.#state)) throw this.#refused();
  }

  /** Bytes that the model needs of memoryBytes. */
  get neededBytes() {
    return this.#exports.rta_model_memory(this.#model);
  }

  close() {
    if (this.#model) this.#exports.rta_model_close(this.#model);
    this.#model = 0;
  }
}
