// node step.mjs FOLDER NAME FILE STEPS: inputs of all steps on standard input, outputs on standard output; "-" for the file: the
// model is within the module. A stream's past is saved and loaded in between, into another module.
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, name, file, steps, samples] = process.argv.slice(2);
const { MEMORY_BYTES, ModelError, open } = await import(pathToFileURL(`${folder}/${name}.mjs`));
const bytes = file === "-" ? null : new Uint8Array(readFileSync(file));
const options = { samples: Number(samples) };
let model = await open(bytes, options);
if (model.neededBytes > MEMORY_BYTES) throw new Error(`${model.neededBytes} of ${MEMORY_BYTES} bytes`);

const given = readFileSync(0), each = model.input().byteLength, out = [];
const row = (i) => new Float32Array(given.buffer.slice(given.byteOffset + i * each, given.byteOffset + (i + 1) * each));
if (given.length !== each * steps) throw new Error(`${given.length} bytes, expected ${each * steps}`);
for (let i = 0; i < steps; ++i) {
  out.push(Buffer.from(new Uint8Array(model.step(row(i)).slice().buffer)));
  if (model.streams && i === steps >> 1) {
    const past = model.saveState(), other = await open(bytes, options);
    model.step(row(i));
    model.close();
    other.loadState(past);
    model = other;
  }
}
if (model.streams) {
  model.reset();
  const again = Buffer.from(new Uint8Array(model.step(row(0)).slice().buffer));
  if (!again.equals(out[0])) throw new Error("a reset stream gives something else");
}

async function refused(what, code, text) {
  try {
    await what();
  } catch (error) {
    if (error instanceof ModelError && error.code === code && error.message.includes(text)) return;
    throw error;
  }
  throw new Error(`not refused: ${text}`);
}
await refused(() => model.step(new Float32Array(1)), 8, "Float32Array of 1, expected Float32Array of");
await refused(() => model.step(new Int32Array(each / 4)), 8, "expected Float32Array");
await refused(() => model.step(row(0), row(0)), 8, "2 inputs, expected 1");
await refused(() => model.input(1), 8, "no such input");
await refused(() => model.loadState(new Uint8Array(model.stateBytes + 1)), 8, "bytes, expected");
if (bytes) {
  const flipped = bytes.slice();
  flipped[flipped.length - 100] ^= 4;
  await refused(() => open(flipped, options), 4, "not those that were written");
  await refused(() => open(bytes.slice(0, 1000), options), 2, "bytes");
  await refused(() => open("model.rta", options), 8, "Uint8Array");
}
model.close();
await refused(() => model.step(), 8, "closed");
await refused(() => open(bytes, { ...options, module: new URL("missing.wasm", import.meta.url) }), 1, "missing.wasm");
writeFileSync(1, Buffer.concat(out));
