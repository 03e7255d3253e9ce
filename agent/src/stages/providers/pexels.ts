// Pexels: finds videos for a keyword and downloads one file of each. Author, page and licence travel with every video,
// because the licence asks for credit where possible and a producer must be able to show where a clip came from.
// Downloads go to https addresses, or to the configured server itself; every redirect is checked again.
import { open, rename, rm } from "node:fs/promises";
import { isIP } from "node:net";
import { z } from "zod";
import type { StageFailure } from "../../work/contract.ts";
import type { StageConfig } from "../fields.ts";
import { BodyTooLarge, badAnswer, boundedFetch, type Callee, failureOfCall, failureOfStatus } from "./http.ts";

type PexelsSettings = NonNullable<StageConfig["pexels"]>;
export type PexelsLimits = { readonly searchMs: number; readonly downloadMs: number; readonly maxFileBytes: number };

/** A stock clip of half a minute in 1080p is 10 to 40 MB; larger files are passed over. */
export const pexelsLimits: PexelsLimits = { searchMs: 20_000, downloadMs: 60_000, maxFileBytes: 200 * 1024 ** 2 };
const maxSearchBytes = 2 * 1024 ** 2;
const maxRedirects = 4;
/** As in requirements 002. */
export const videosPerKeyword = 5;
const targetHeight = 1080;

export type StockVideo = {
  /** The file to download. */
  readonly link: string;
  /** Seconds, as Pexels says. */
  readonly duration: number;
  readonly attribution: {
    readonly author: string;
    readonly author_url: string;
    readonly page_url: string;
    readonly licence: string;
    readonly licence_url: string;
  };
};

const text = z.string().max(2_000).catch("");
const searchAnswer = z.object({
  videos: z.array(
    z.object({
      url: text,
      duration: z.number().min(0).catch(0),
      user: z.object({ name: text, url: text }).catch({ name: "", url: "" }),
      video_files: z.array(
        z.object({
          link: z.string().max(4_000),
          file_type: z.string().nullish(),
          width: z.number().nullish(),
          height: z.number().nullish(),
        }),
      ),
    }),
  ),
});
type VideoFile = z.infer<typeof searchAnswer>["videos"][number]["video_files"][number];

const calleeOf = (settings: PexelsSettings): Callee => ({
  name: `Pexels at ${new URL(settings.baseUrl).host}`,
  keySetting: "PEXELS_API_KEY",
  addressSetting: "PEXELS_BASE_URL",
  apiKey: settings.apiKey,
});

export const searchVideos = async (
  settings: PexelsSettings,
  keyword: string,
  signal: AbortSignal,
  limits = pexelsLimits,
): Promise<StockVideo[]> => {
  const callee = calleeOf(settings);
  const url = new URL("videos/search", settings.baseUrl.endsWith("/") ? settings.baseUrl : `${settings.baseUrl}/`);
  url.searchParams.set("query", keyword);
  url.searchParams.set("per_page", String(videosPerKeyword));
  let body: unknown;
  try {
    const response = await boundedFetch(maxSearchBytes)(url, {
      headers: { authorization: settings.apiKey, accept: "application/json" },
      signal: AbortSignal.any([signal, AbortSignal.timeout(limits.searchMs)]),
    });
    if (!response.ok) throw statusFailure(callee, response, await response.text());
    body = await response.json();
  } catch (error) {
    throw failureOfCall(callee, error, signal);
  }
  const parsed = searchAnswer.safeParse(body);
  if (!parsed.success) throw badAnswer(callee, "without a list of videos", JSON.stringify(body) ?? "");
  return parsed.data.videos.slice(0, videosPerKeyword).flatMap((video) => {
    const file = bestFile(video.video_files);
    if (!file) return [];
    const attribution = {
      author: video.user.name,
      author_url: video.user.url,
      page_url: video.url,
      licence: "Pexels License",
      licence_url: "https://www.pexels.com/license/",
    };
    return [{ link: file.link, duration: video.duration, attribution }];
  });
};

/** The smallest MP4 that fills 1080 lines, else the largest there is; Pexels lists them in no order. */
const bestFile = (files: readonly VideoFile[]): VideoFile | undefined => {
  const linesOf = (file: VideoFile): number => Math.min(file.width ?? 0, file.height ?? 0);
  const sorted = files
    .filter((file) => (file.file_type ?? "video/mp4") === "video/mp4")
    .toSorted((a, b) => linesOf(a) - linesOf(b));
  return sorted.find((file) => linesOf(file) >= targetHeight) ?? sorted.at(-1);
};

export type Download = { readonly ok: true; readonly bytes: number } | { readonly ok: false; readonly reason: string };

/**
 * Writes the file whole or not at all. A clip that is gone, too large or at an address that is not allowed answers
 * `ok: false`, so that the next one can be taken; a server that does not answer is a failure.
 */
export const downloadVideo = async (
  settings: PexelsSettings,
  link: string,
  target: string,
  signal: AbortSignal,
  limits = pexelsLimits,
): Promise<Download> => {
  const callee = { ...calleeOf(settings), name: `The download server of ${calleeOf(settings).name}` };
  const part = `${target}.part`;
  try {
    const deadline = AbortSignal.any([signal, AbortSignal.timeout(limits.downloadMs)]);
    const response = await follow(settings, link, deadline);
    if (typeof response === "string") return { ok: false, reason: response };
    if (!response.ok) {
      await response.body?.cancel();
      if (response.status >= 500 || response.status === 429 || response.status === 408)
        throw statusFailure(callee, response, "");
      return { ok: false, reason: `HTTP ${response.status}` };
    }
    const bytes = await writeBody(response, part, limits.maxFileBytes);
    await rename(part, target);
    return { ok: true, bytes };
  } catch (error) {
    await rm(part, { force: true });
    if (error instanceof BodyTooLarge) return { ok: false, reason: error.message };
    throw failureOfCall(callee, error, signal);
  }
};

const statusFailure = (callee: Callee, response: Response, body: string): StageFailure =>
  failureOfStatus(callee, { status: response.status, retryAfter: response.headers.get("retry-after"), body });

/** The response, or in words why the address is not allowed. The key is never sent along. */
const follow = async (settings: PexelsSettings, link: string, signal: AbortSignal): Promise<Response | string> => {
  let at = link;
  for (let hop = 0; hop <= maxRedirects; hop++) {
    const url = URL.parse(at);
    if (!url || !isAllowed(settings, url)) return `the address is not allowed: ${(url?.host ?? at).slice(0, 100)}`;
    const response = await fetch(url, { redirect: "manual", signal });
    const location = response.headers.get("location");
    if (response.status < 300 || response.status >= 400 || location === null) return response;
    await response.body?.cancel();
    at = new URL(location, url).href;
  }
  return `more than ${maxRedirects} redirects`;
};

/** Public https names only: an answer of the service must not make this host call its own network. */
const isAllowed = (settings: PexelsSettings, url: URL): boolean => {
  if (url.origin === new URL(settings.baseUrl).origin) return true;
  const isName = isIP(url.hostname.replace(/^\[|\]$/g, "")) === 0 && url.hostname.includes(".");
  const isLocal = /(^|\.)(localhost|local|internal|lan|home\.arpa)$/i.test(url.hostname);
  return url.protocol === "https:" && isName && !isLocal && url.username === "" && url.port === "";
};

const writeBody = async (response: Response, file: string, limitBytes: number): Promise<number> => {
  const announced = response.headers.get("content-length");
  const encoded = response.headers.has("content-encoding");
  if (announced !== null && Number(announced) > limitBytes) {
    await response.body?.cancel();
    throw new BodyTooLarge(limitBytes);
  }
  const handle = await open(file, "w");
  try {
    let bytes = 0;
    for await (const chunk of response.body ?? []) {
      bytes += chunk.byteLength;
      if (bytes > limitBytes) throw new BodyTooLarge(limitBytes);
      await handle.write(chunk);
    }
    if (announced !== null && !encoded && bytes !== Number(announced))
      throw new Error(`the download ended after ${bytes} of ${announced} bytes`);
    await handle.sync();
    return bytes;
  } finally {
    await handle.close();
  }
};
