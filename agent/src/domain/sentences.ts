// Cuts a script into the sentences that are spoken and captioned one by one. Pure and deterministic: the same text gives
// the same list on every host, because a replayed stage must reach the same steps.
// Invariants: no item is empty, every item has a letter or a number, none is longer than maxSentenceCharacters (UTF-16),
// and the letters and numbers of the text come out once, in order.

/** About 15 s of speech and the most that three caption lines hold; longer sentences are cut at a clause or a word. */
export const maxSentenceCharacters = 220;

/** A line shorter than this was ended by its writer; a longer one was wrapped by an editor. */
const wrappedLineCharacters = 50;

// A full stop after these does not end a sentence when more follows. Lower case, without the stop.
const abbreviations = new Set(
  (
    "mr mrs ms dr prof rev hon gen col capt lt sgt st mt jr sr inc ltd co corp dept fig figs eq no nos vol pp ca cf vs viz " +
    "approx est etc al ed eds e.g i.e a.m p.m u.s u.k jan feb mar apr jun jul aug sep sept oct nov dec " +
    "bzw usw ggf bspw z.b d.h u.a str nr abs hr fr mme mlle sra srta p.ej"
  ).split(" "),
);
/** May end a sentence too: they bind only when the next word begins in lower case or is a number. */
const weakAbbreviations = new Set("etc a.m p.m u.s u.k inc ltd co corp jr sr al usw".split(" "));

const isSpeakable = (text: string): boolean => /[\p{L}\p{N}]/u.test(text);

/** The script as it is stored: one kind of newline, no invisible controls, composed letters, no space at the edges. */
export const normaliseScript = (text: string): string =>
  text
    .replace(/\r\n?|[\u2028\u2029]/g, "\n")
    .replace(/\p{Cc}/gu, (control) => (control === "\n" || control === "\t" ? control : ""))
    .replace(/[\ufeff\u200b\u2060]/g, "")
    .normalize("NFC")
    .split("\n")
    .map((line) => line.trimEnd())
    .join("\n")
    .replace(/\n{3,}/g, "\n\n")
    .trim();

/** Sentences in order; an empty list when there is no letter and no number to speak. */
export const splitSentences = (text: string): string[] =>
  attachUnspeakable(paragraphsOf(normaliseScript(text)).flatMap(sentencesOf)).flatMap(cutLong);

/** Blank lines, list items and lines that were ended on purpose end a sentence; wrapped lines do not. */
const paragraphsOf = (text: string): string[] => {
  const paragraphs: string[] = [];
  let open = "";
  const close = () => {
    if (open !== "") paragraphs.push(open);
    open = "";
  };
  let lineBefore = "";
  for (const raw of text.split("\n")) {
    const line = raw.trim().replace(/\s+/gu, " ");
    const isListItem = /^([-*•–]|\d{1,3}[.)])\s/u.test(line);
    const endedOnPurpose = lineBefore.length < wrappedLineCharacters && /^[\p{Lu}\p{Lo}\p{N}"'“‘«¿¡]/u.test(line);
    if (line === "" || isListItem || endedOnPurpose) close();
    const words = line.replace(/^[-*•–]\s+/u, "");
    if (words !== "") open = open === "" ? words : `${open} ${words}`;
    lineBefore = line;
  }
  close();
  return paragraphs;
};

/** Unicode's sentence borders, less those after abbreviations, initials and before lower case. */
const sentencesOf = (paragraph: string): string[] => {
  // One fixed locale: the borders must not depend on the host.
  const segments = [...new Intl.Segmenter("en", { granularity: "sentence" }).segment(paragraph)].map((s) => s.segment);
  const sentences: string[] = [];
  let open = "";
  for (const [index, segment] of segments.entries()) {
    open += segment;
    const next = segments[index + 1];
    if (next !== undefined && bindsTo(open.trimEnd(), next)) continue;
    sentences.push(open.trim());
    open = "";
  }
  return sentences.filter((sentence) => sentence !== "");
};

const bindsTo = (before: string, next: string): boolean => {
  // “Stop!” she said.
  if (/[”"’'»)\]]$/u.test(before) && /^\p{Ll}/u.test(next)) return true;
  const word = /(?:^|[\s("'“‘[])([\p{L}.]*\p{L})\.$/u.exec(before)?.[1];
  if (word === undefined) return false;
  const name = word.toLowerCase();
  const nextIsSmall = /^[\p{Ll}\p{N}]/u.test(next);
  if (weakAbbreviations.has(name)) return nextIsSmall;
  // "J. Smith": one capital letter and a stop is an initial, except the word I at the end of a sentence.
  const isInitial = /^\p{Lu}$/u.test(word) && word !== "I";
  return abbreviations.has(name) || isInitial;
};

/** "…", "!!!" or an emoji on its own belongs to the sentence before it, or to the next one at the beginning. */
const attachUnspeakable = (pieces: readonly string[]): string[] => {
  const sentences: string[] = [];
  let leading = "";
  for (const piece of pieces) {
    if (isSpeakable(piece)) {
      sentences.push(leading === "" ? piece : `${leading} ${piece}`);
      leading = "";
    } else if (sentences.length > 0) {
      sentences.push(`${sentences.pop()} ${piece}`);
    } else leading = leading === "" ? piece : `${leading} ${piece}`;
  }
  return sentences;
};

/** Greedy: as many whole words as fit, ending at a clause when one ends in the second half. */
const cutLong = (sentence: string): string[] => {
  const pieces: string[] = [];
  let rest = sentence;
  while (rest.length > maxSentenceCharacters) {
    const at = cutAt(rest);
    pieces.push(rest.slice(0, at).trim());
    rest = rest.slice(at).trim();
  }
  pieces.push(rest);
  // A piece without a letter is dropped: joined to a neighbour it could be too long again.
  return pieces.filter(isSpeakable);
};

const cutAt = (text: string): number => {
  const window = text.slice(0, maxSentenceCharacters);
  const clause = Math.max(...[...window.matchAll(/[,;:—–)、，；：。]\s*/gu)].map((m) => m.index + m[0].length), 0);
  if (clause > maxSentenceCharacters / 2) return clause;
  const space = window.lastIndexOf(" ");
  if (space > 0) return space + 1;
  // No space: scripts that use none are cut between words as Unicode sees them, anything else between characters.
  for (const granularity of ["word", "grapheme"] as const) {
    const borders = [...new Intl.Segmenter("en", { granularity }).segment(window)].map((s) => s.index);
    const last = borders.at(-1) ?? 0;
    if (last > 0) return last;
  }
  // One character of this length does not occur in text; the bound still holds without splitting a surrogate pair.
  return /[\ud800-\udbff]$/.test(window) ? maxSentenceCharacters - 1 : maxSentenceCharacters;
};
