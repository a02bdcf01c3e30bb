// What the page draws with: the server that sent it. The documentation's page has another backend.mjs, which draws in
// the browser. `describe` says what the model is; `draw` takes {caption, seed, truncation, masks} to {image, masks}: a
// picture's address, and one mask per stage as bytes. A mask that is asked for is bytes, or null.

const toBytes = (text) => Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0));
const toText = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));

async function ask(path, body) {
    let reply;
    try {
        reply = await fetch(path, body && {method: "POST", body: JSON.stringify(body)});
    } catch {
        throw new Error("The server does not answer; is t2ilayers app still running?");
    }
    const answer = await reply.json();
    if (!reply.ok) throw new Error(answer.error);
    return answer;
}

export const describe = () => ask("/model");

export async function draw({masks, ...request}) {
    const drawn = await ask("/picture", {...request, masks: masks.map((bytes) => bytes && toText(bytes))});
    return {image: drawn.image, masks: drawn.masks.map(toBytes)};
}
