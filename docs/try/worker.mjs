// Draws with the model of the folder beside it, apart from the page, which so stays at hand meanwhile.

import {SSAGAN, readTensors} from "./ssagan.mjs";
import {tokenize} from "./words.mjs";

const NAME = "shapes32", MOST_TRIED = 8;

async function read(name, how) {
    const reply = await fetch(new URL(`${NAME}/${name}`, import.meta.url));
    if (!reply.ok) throw new Error(`${NAME}/${name} did not arrive: ${reply.status}; try to load the page again`);
    return reply[how]();
}

const loaded = Promise.all([
    read("config.json", "json"), read("vocabulary.json", "json"), read("captions.txt", "text"),
    read("model.safetensors", "arrayBuffer"),
]).then(([config, vocabulary, captions, weights]) => {
    const model = new SSAGAN(config, vocabulary, readTensors(weights));
    const known = (caption) => tokenize(caption).every((word) => model.words.includes(word));
    return {model, captions: captions.split("\n").filter((caption) => caption && known(caption))};
});

const answers = {
    describe: async () => {
        const {model, captions} = await loaded;
        return {
            name: NAME, size: model.config.image_size, stages: model.sides, words: model.words.slice(1),
            captions: captions.slice(0, MOST_TRIED),
        };
    },
    draw: async ({caption, ...options}) => (await loaded).model.generate(caption, options),
};

onmessage = async ({data: [what, request], ports: [port]}) => {
    try {
        port.postMessage({answer: await answers[what](request)});
    } catch (error) {
        port.postMessage({error: error.message});
    }
};
