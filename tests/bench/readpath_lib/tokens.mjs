// How fast an unchanged llama.cpp generates once a model is in memory:
//   node tokens.mjs MODEL [--tokens N] [--rounds N]
// Prints one line of JSON: tokens a second of the best round, and a sum over the
// text, so that runs over copies of one model can be compared.
// MFS_NODE_MODULES is the directory that node-llama-cpp is installed in.
import {createHash} from "node:crypto";
import {statSync} from "node:fs";
import path from "node:path";
import {pathToFileURL} from "node:url";
import {parseArgs} from "node:util";

const {values, positionals} = parseArgs({
    allowPositionals: true,
    options: {
        tokens: {type: "string", default: "48"},
        rounds: {type: "string", default: "5"}
    }
});
const modules = process.env.MFS_NODE_MODULES;
if (positionals.length !== 1 || !modules) {
    console.error("usage: MFS_NODE_MODULES=DIR node tokens.mjs MODEL [--tokens N] [--rounds N]");
    process.exit(2);
}
const entry = path.join(modules, "node-llama-cpp", "dist", "index.js");
const {getLlama, LlamaCompletion} = await import(pathToFileURL(entry));

const file = path.resolve(positionals[0]);
const llama = await getLlama({
    gpu: false, build: "never", usePrebuiltBinaries: true, skipDownload: true, maxThreads: 1,
    logLevel: "error"
});
const model = await llama.loadModel({modelPath: file, gpuLayers: 0, useMmap: true});
const context = await model.createContext({contextSize: 256, batchSize: 64, threads: 1});
const sequence = context.getSequence();

// Text, seconds and tokens of one round; the first token comes before the clock starts.
async function generate() {
    const completion = new LlamaCompletion({contextSequence: sequence});
    let count = 0, start = 0, end = 0;

    await sequence.clearHistory();
    const text = await completion.generateCompletion("Once upon a time", {
        maxTokens: Number(values.tokens), temperature: 0, seed: 1,
        onToken: (tokens) => {
            end = performance.now();
            if (!start)
                start = end;
            else
                count += tokens.length;
        }
    });
    completion.dispose({disposeSequence: false});
    return {text, count, seconds: (end - start) / 1000};
}

const first = await generate(); // what is not in memory yet comes now
let best = null;
const used = process.cpuUsage();
for (let round = 0; round < Number(values.rounds); round++) {
    const one = await generate();

    if (one.text !== first.text || one.count < 2) {
        console.error("tokens.mjs: %d tokens of another text", one.count);
        process.exit(1);
    }
    if (!best || one.count / one.seconds > best.count / best.seconds)
        best = one;
}
const cpu = process.cpuUsage(used);
process.stdout.write(JSON.stringify({
    pattern: "tokens",
    bytes: statSync(file).size * best.count,
    seconds: best.seconds,
    cpu_seconds: (cpu.user + cpu.system) / 1e6 / Number(values.rounds),
    sum: createHash("sha256").update(first.text).digest().readUInt32LE(0),
    tokens_per_second: best.count / best.seconds
}) + "\n");
await llama.dispose();
