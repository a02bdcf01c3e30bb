// Captions to words and their indices, as t2ilayers.words and t2ilayers.vocabulary do by the rule "words".

const IGNORED = /[\u00ad\ufeff\ufe00-\ufe0f]/g;  // soft hyphen, byte order mark, and what chooses among looks
// A pictograph by itself; or letters, digits and underscores, each with its marks and with what joins letters.
const WORD = /(?=[\u2190-\uffef\u{10000}-\u{10ffff}])\p{So}|(?:[\p{L}\p{N}_][\p{M}\u200c\u200d]*)+/gu;

export function tokenize(caption) {
    const words = caption.normalize("NFC").toLowerCase().normalize("NFC").replace(IGNORED, "").match(WORD) || [];
    return words.map((word) => word.replace(/[\u200c\u200d]+$/, ""));
}

// The indices of a caption's first words in the list of words.
export function encode(caption, words, most) {
    const found = tokenize(caption), unknown = [...new Set(found.filter((word) => words.indexOf(word) < 1))];
    if (unknown.length) {
        const named = unknown.slice(0, 5).map((word) => `'${word.slice(0, 40)}'`).join(", ");
        const more = unknown.length > 5 ? ` and ${unknown.length - 5} more` : "";
        throw new Error(`unknown words: ${named}${more}; choose from the ${words.length - 1} that the model knows`);
    }
    if (!found.length) throw new Error("a caption must have at least one word");
    return found.slice(0, most).map((word) => words.indexOf(word));
}
