// An unchanged llama.cpp writes the continuation of a prompt to standard output,
// the model mapped into memory:
//   node llama.mjs MODEL [--lora ADAPTER] [--tokens N] [--prompt TEXT]
//   node llama.mjs --lines MODEL[,ADAPTER]...
// The second form writes a line for each model, as a JSON string. MFS_NODE_MODULES is
// the directory that node-llama-cpp is installed in.
import path from "node:path";
import {pathToFileURL} from "node:url";
import {parseArgs} from "node:util";

const {values, positionals} = parseArgs({
    allowPositionals: true,
    options: {
        lines: {type: "boolean", default: false},
        lora: {type: "string"},
        tokens: {type: "string", default: "24"},
        prompt: {type: "string", default: "Once upon a time"}
    }
});
const modules = process.env.MFS_NODE_MODULES;
const jobs = values.lines
    ? positionals.map((operand) => operand.split(","))
    : [[...positionals, ...(values.lora ? [values.lora] : [])]];
if (positionals.length === 0 || (positionals.length > 1 && !values.lines) || !modules) {
    console.error("usage: MFS_NODE_MODULES=DIR node llama.mjs MODEL [--lora ADAPTER] [--tokens N] [--prompt TEXT]\n" +
        "       MFS_NODE_MODULES=DIR node llama.mjs --lines MODEL[,ADAPTER]...");
    process.exit(2);
}
const entry = path.join(modules, "node-llama-cpp", "dist", "index.js");
const {getLlama, LlamaCompletion} = await import(pathToFileURL(entry));

const llama = await getLlama({
    gpu: false, build: "never", usePrebuiltBinaries: true, skipDownload: true, maxThreads: 1,
    logLevel: "error"
});

async function say([modelPath, adapter])
{
    const model = await llama.loadModel({
        modelPath: path.resolve(modelPath), gpuLayers: 0, useMmap: true
    });
    const context = await model.createContext({
        contextSize: 256, batchSize: 64, threads: 1,
        ...(adapter ? {lora: {adapters: [{filePath: path.resolve(adapter), scale: 1}]}} : {})
    });
    const completion = new LlamaCompletion({contextSequence: context.getSequence()});
    const text = await completion.generateCompletion(values.prompt, {
        maxTokens: Number(values.tokens), temperature: 0, seed: 1
    });
    await model.dispose();
    return text;
}

for (const job of jobs) {
    const text = await say(job).catch((error) => {
        console.error(`${job.join(" with ")}: ${error.message}`);
        process.exit(1);
    });
    process.stdout.write((values.lines ? JSON.stringify(text) : text) + "\n");
}
await llama.dispose();
