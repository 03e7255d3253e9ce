// Captions from the timings of the speech: what stands on the screen when, as .ass (burned in) and .srt (beside the video).
// Pure text work. User text meets a file format here and nowhere else: the render passes file names, never text, to FFmpeg.
// Invariant: nothing that a caller writes can end a line, open an override or a tag, or leave the picture.

/** As audio_synthesis writes them to timings.json: in order, silence between allowed. */
export type Timing = { readonly text: string; readonly start_ms: number; readonly end_ms: number };
/** One or two lines that are shown together. */
export type Caption = { readonly lines: readonly string[]; readonly startMs: number; readonly endMs: number };

/** Columns of a line; 42 is the customary limit, and at 58 px of 1080 it stays inside the margins. */
const maxColumns = 42;
const maxLines = 2;
/** Below it nobody can read; a shorter piece still keeps its time, so that captions never overlap. */
const minCaptionMs = 10;

/** Cuts each sentence into captions of two lines; the time of a sentence is shared by the length of its pieces. */
export const captionsFrom = (timings: readonly Timing[]): Caption[] =>
  timings.flatMap((timing) => {
    const lines = wrap(cleanText(timing.text));
    const pieces: string[][] = [];
    for (let i = 0; i < lines.length; i += maxLines) pieces.push(lines.slice(i, i + maxLines));
    const weights = pieces.map((piece) => Math.max(1, columnsOf(piece.join(" "))));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const spanMs = Math.max(minCaptionMs, timing.end_ms - timing.start_ms);
    let before = 0;
    return pieces.map((piece, i) => {
      const startMs = timing.start_ms + (spanMs * before) / total;
      before += weights[i] ?? 1;
      return { lines: piece, startMs, endMs: timing.start_ms + (spanMs * before) / total };
    });
  });

/** SubStation Alpha on a 1920x1080 grid; libass scales it to the size of the picture. */
export const toAss = (captions: readonly Caption[]): string =>
  [
    "[Script Info]",
    "ScriptType: v4.00+",
    "PlayResX: 1920",
    "PlayResY: 1080",
    "WrapStyle: 0",
    "ScaledBorderAndShadow: yes",
    "YCbCr Matrix: None",
    "",
    "[V4+ Styles]",
    "Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding",
    "Style: Default,DejaVu Sans,58,&H00FFFFFF,&H00FFFFFF,&H00101010,&H80000000,-1,0,0,0,100,100,0,0,1,3,1,2,160,160,70,1",
    "",
    "[Events]",
    "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text",
    ...captions.map(
      (caption) =>
        `Dialogue: 0,${assTime(caption.startMs)},${assTime(caption.endMs)},Default,,0,0,0,,${caption.lines.map(assText).join("\\N")}`,
    ),
    "",
  ].join("\n");

export const toSrt = (captions: readonly Caption[]): string =>
  captions
    .map(
      (caption, i) =>
        `${i + 1}\n${srtTime(caption.startMs)} --> ${srtTime(caption.endMs)}\n${caption.lines.map(srtText).join("\n")}\n`,
    )
    .join("\n");

/** Control characters (line ends among them) become blanks: one could end the line of the file and begin another. */
const cleanText = (text: string): string =>
  text
    .replaceAll(/[\p{Cc}\p{Zl}\p{Zp}]/gu, " ")
    .replaceAll(/\s+/gu, " ")
    .trim();

// Braces open override blocks; libass knows them escaped. A backslash begins an escape and has none itself: a word joiner
// behind it (invisible, no width) parts it from the letter, as FFmpeg's own subtitle encoder does.
const assText = (line: string): string =>
  line.replaceAll("\\", "\\\u2060").replaceAll("{", "\\{").replaceAll("}", "\\}");

/** An arrow is the one thing that could be read as a time line; players take <b> and {\an8} for markup. */
const srtText = (line: string): string =>
  line
    .replaceAll("-->", "→")
    .replaceAll(/<(?=[a-zA-Z/])/g, "<\u2060")
    .replaceAll(/\{(?=\\)/g, "{\u2060");

/** Centiseconds, always rounded down, so that neighbours still meet and never overlap. */
const assTime = (ms: number): string => {
  const cs = Math.floor(ms / 10);
  return `${Math.floor(cs / 360_000)}:${two(Math.floor(cs / 6_000) % 60)}:${two(Math.floor(cs / 100) % 60)}.${two(cs % 100)}`;
};
const srtTime = (ms: number): string => {
  const whole = Math.floor(ms);
  const s = Math.floor(whole / 1000);
  return `${two(Math.floor(s / 3600))}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)},${String(whole % 1000).padStart(3, "0")}`;
};
const two = (n: number): string => String(n).padStart(2, "0");

/** Lines of at most maxColumns, broken at blanks; a longer word is cut between graphemes, because libass cannot. */
const wrap = (text: string): string[] => {
  const lines: string[] = [];
  let line = "";
  let columns = 0;
  const flush = () => {
    if (line !== "") lines.push(line);
    line = "";
    columns = 0;
  };
  for (const word of text.split(" ").flatMap(cutWord)) {
    const wide = columnsOf(word);
    if (columns > 0 && columns + 1 + wide > maxColumns) flush();
    line = line === "" ? word : `${line} ${word}`;
    columns += (columns > 0 ? 1 : 0) + wide;
  }
  flush();
  return lines;
};

const cutWord = (word: string): string[] => {
  if (columnsOf(word) <= maxColumns) return word === "" ? [] : [word];
  const pieces: string[] = [];
  let piece = "";
  let columns = 0;
  for (const { segment } of new Intl.Segmenter("und", { granularity: "grapheme" }).segment(word)) {
    const wide = columnsOf(segment);
    if (columns > 0 && columns + wide > maxColumns) {
      pieces.push(piece);
      piece = "";
      columns = 0;
    }
    piece += segment;
    columns += wide;
  }
  return [...pieces, piece];
};

/** East Asian wide characters and pictographs take two columns; marks take none. Good enough to break lines. */
const widePattern = /[\u1100-\u115f\u2e80-\u303e\u3041-\uffdc\p{Extended_Pictographic}\u{20000}-\u{3fffd}]/u;
const noWidthPattern = /[\p{Mn}\p{Me}\p{Cf}]/u;
const columnsOf = (text: string): number => {
  let columns = 0;
  for (const char of text) columns += noWidthPattern.test(char) ? 0 : widePattern.test(char) ? 2 : 1;
  return columns;
};
