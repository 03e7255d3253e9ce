// What is said about the video where it is published: title, description, tags, category and privacy, inside the limits of
// requirements 002 and of the platform. Pure. Texts are shortened between characters as people see them, never inside one.
import { splitSentences } from "../domain/sentences.ts";
import type { NarratedRequest } from "./fields.ts";

/** Limits of requirements 002, in characters as UTF-16 counts them, which is never less than what a platform counts. */
export const maxTitle = 100;
export const maxDescription = 500;
/** YouTube counts all tags together, with a comma between two and quotes around those with a blank. */
const maxTagsTogether = 500;
const defaultTags = ["ytempire", "automated"];

export type Metadata = {
  readonly title: string;
  readonly description: string;
  readonly tags: readonly string[];
  readonly category: string;
  readonly privacy: "private" | "unlisted" | "public";
};

/** `shortened` names the fields that did not fit; `credits` go under the description where they fit whole. */
export const planMetadata = (
  request: NarratedRequest,
  script: string,
  credits: readonly string[],
): { readonly metadata: Metadata; readonly shortened: readonly string[] } => {
  const title =
    oneLine(publishable(request.title ?? "")) ||
    oneLine(publishable(splitSentences(script)[0] ?? "")) ||
    "Untitled video";
  const body = publishable(request.description ?? script).trim();
  const tags = fittingTags(request.tags ?? request.keywords ?? defaultTags);
  const description = credits.reduce(
    (sum, credit) => (sum.length + 1 + credit.length <= maxDescription ? `${sum}\n${credit}` : sum),
    shorten(body, maxDescription),
  );
  const shortened = [
    ...(title.length > maxTitle ? ["title"] : []),
    ...(body.length > maxDescription ? ["description"] : []),
    ...(tags.length < new Set(request.tags ?? []).size ? ["tags"] : []),
  ];
  const metadata = {
    title: shorten(title, maxTitle),
    description,
    tags,
    category: request.category,
    privacy: request.privacy,
  };
  return { metadata, shortened };
};

/** The platform refuses angle brackets in titles and descriptions. */
const publishable = (text: string): string => text.replaceAll("<", "‹").replaceAll(">", "›");
const oneLine = (text: string): string => text.replace(/\s+/gu, " ").trim();

/** At a word when one ends in the last quarter, with an ellipsis; whole characters in any case. */
export const shorten = (text: string, limit: number): string => {
  if (text.length <= limit) return text;
  let cut = "";
  for (const { segment } of new Intl.Segmenter("en", { granularity: "grapheme" }).segment(text)) {
    if (cut.length + segment.length > limit - 1) break;
    cut += segment;
  }
  const space = cut.search(/\s\S*$/u);
  const kept = space > limit * 0.75 ? cut.slice(0, space) : cut;
  return `${kept.trimEnd()}…`;
};

const fittingTags = (tags: readonly string[]): string[] => {
  const fitting: string[] = [];
  let together = 0;
  for (const tag of new Set(tags.map((text) => oneLine(publishable(text).replaceAll(",", " "))))) {
    const length = tag.length + (tag.includes(" ") ? 2 : 0) + (fitting.length > 0 ? 1 : 0);
    if (tag === "" || together + length > maxTagsTogether) continue;
    together += length;
    fitting.push(tag);
  }
  return fitting;
};
