// What the page of `t2ilayers app` draws with where no server does: the model itself, in this browser.

const worker = new Worker(new URL("worker.mjs", import.meta.url), {type: "module"});

function ask(what, request) {
    return new Promise((resolve, reject) => {
        const {port1, port2} = new MessageChannel();
        port1.onmessage = ({data: {answer, error}}) => error ? reject(new Error(error)) : resolve(answer);
        worker.onerror = () => reject(new Error("This browser cannot run the model; a newer one can"));
        worker.postMessage([what, request], [port2]);
    });
}

export const describe = () => ask("describe");

export async function draw({masks, ...request}) {
    const drawn = await ask("draw", {...request, masks: masks.map((bytes) => bytes && toValues(bytes))});
    return {image: toPNG(drawn.image), masks: drawn.masks.map((mask) => toBytes(mask, (value) => 255 * value))};
}

const toValues = (bytes) => Float32Array.from(bytes, (byte) => byte / 255);
const toBytes = (values, scale) => Uint8ClampedArray.from(values, scale);  // which rounds

function toPNG(planes) {
    const area = planes.length / 3, canvas = document.createElement("canvas");
    canvas.width = canvas.height = Math.sqrt(area);
    const bytes = toBytes(planes, (value) => 127.5 * (value + 1)), pixels = new ImageData(canvas.width, canvas.height);
    for (let i = 0; i < area; i++) pixels.data.set([bytes[i], bytes[i + area], bytes[i + 2 * area], 255], 4 * i);
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return canvas.toDataURL();
}
