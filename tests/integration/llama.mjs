// An unchanged llama.cpp writes the continuation of a prompt to standard output,
// the model mapped into memory:
//   node llama.mjs MODEL [--lora ADAPTER] [--tokens N] [--prompt TEXT]
// MFS_NODE_MODULES is the directory that node-llama-cpp is installed in.
import path from "node:path";
import {pathToFileURL} from "node:url";
import {parseArgs} from "node:util";

const {values, positionals} = parseArgs({
    allowPositionals: true,
    options: {
        lora: {type: "string"},
        tokens: {type: "string", default: "24"},
        prompt: {type: "string", default: "Once upon a time"}
    }
});
const modules = process.env.MFS_NODE_MODULES;
if (positionals.length !== 1 || !modules) {
    console.error("usage: MFS_NODE_MODULES=DIR node llama.mjs MODEL [--lora ADAPTER] [--tokens N] [--prompt TEXT]");
    process.exit(2);
}
const entry = path.join(modules, "node-llama-cpp", "dist", "index.js");
const {getLlama, LlamaCompletion} = await import(pathToFileURL(entry));

const llama = await getLlama({
    gpu: false, build: "never", usePrebuiltBinaries: true, skipDownload: true, maxThreads: 1,
    logLevel: "error"
});
const model = await llama.loadModel({
    modelPath: path.resolve(positionals[0]), gpuLayers: 0, useMmap: true
});
const context = await model.createContext({
    contextSize: 256, batchSize: 64, threads: 1,
    ...(values.lora ? {lora: {adapters: [{filePath: path.resolve(values.lora), scale: 1}]}} : {})
});
const completion = new LlamaCompletion({contextSequence: context.getSequence()});
const text = await completion.generateCompletion(values.prompt, {
    maxTokens: Number(values.tokens), temperature: 0, seed: 1
});
process.stdout.write(text + "\n");
await llama.dispose();
