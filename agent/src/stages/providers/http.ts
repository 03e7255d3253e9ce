// What every outside service has in common: a bounded body, no followed redirects, and one mapping from how a call went
// wrong to a failure class. Nothing is retried here: retries, their delays and their cost are the control plane's.
// Invariant: a key never reaches a message or the evidence.
import { StageFailure } from "../../work/contract.ts";

/** Who was called, for messages: the service's name and the setting that a person would change. */
export type Callee = {
  readonly name: string;
  readonly keySetting: string;
  readonly addressSetting: string;
  readonly apiKey: string;
};

/** Enough to see what the service said; more would be somebody's web page. */
const maxEvidenceCharacters = 2_000;

export class BodyTooLarge extends Error {
  override readonly name = "BodyTooLarge";
  constructor(limitBytes: number) {
    super(`the answer is larger than ${limitBytes} bytes`);
  }
}

/** fetch that reads the whole answer, at most `limitBytes` of it after decompression, and follows no redirect. */
export const boundedFetch =
  (limitBytes: number) =>
  async (url: string | URL | Request, init?: RequestInit): Promise<Response> => {
    // A redirect could lead the key, or this host's network position, somewhere that nobody configured.
    const response = await fetch(url, { ...init, redirect: "manual" });
    const { status, statusText, headers } = response;
    const body = await readBounded(response, limitBytes);
    return new Response(isEmptyStatus(status) ? null : new Uint8Array(body), { status, statusText, headers });
  };

const isEmptyStatus = (status: number): boolean => status === 101 || status === 204 || status === 205 || status === 304;

export const readBounded = async (response: Response, limitBytes: number): Promise<Buffer> => {
  if (response.body === null) return Buffer.alloc(0);
  const chunks: Uint8Array[] = [];
  let size = 0;
  // Leaving the loop by a throw cancels the body, which closes the connection.
  for await (const chunk of response.body) {
    size += chunk.byteLength;
    if (size > limitBytes) throw new BodyTooLarge(limitBytes);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
};

/** An answer with a status that is not a success. */
export const failureOfStatus = (
  callee: Callee,
  answer: { readonly status: number; readonly retryAfter: string | null; readonly body: string },
): StageFailure => {
  const { status } = answer;
  const retryAfter =
    answer.retryAfter === null ? "" : ` It asks to wait (Retry-After: ${answer.retryAfter.slice(0, 60)}).`;
  const evidence = withoutKey(callee, `HTTP ${status}${retryAfter}\n${answer.body.slice(0, maxEvidenceCharacters)}`);
  const more = { evidence, exit: `http ${status}` };
  const said = `${callee.name} answered HTTP ${status}`;
  if (status === 401 || status === 403)
    return new StageFailure(
      "provider_auth",
      `${said}: the key is refused. Check ${callee.keySetting} on this host.`,
      more,
    );
  if (status === 429 || status === 402)
    return new StageFailure("provider_quota", `${said}: its quota or rate is used up.${retryAfter}`, more);
  if (status === 408 || status >= 500)
    return new StageFailure("provider_unavailable", `${said}: it cannot serve now.${retryAfter}`, more);
  if (status >= 300 && status < 400)
    return new StageFailure(
      "provider_bad_answer",
      `${said}: redirects are not followed. Set ${callee.addressSetting} to the final address.`,
      more,
    );
  return new StageFailure(
    "provider_bad_answer",
    `${said}: it does not accept the call. Check ${callee.addressSetting} and the model settings on this host.`,
    more,
  );
};

/** A call that got no usable answer. Rethrows the reason when we ended it ourselves. */
export const failureOfCall = (callee: Callee, error: unknown, signal: AbortSignal): StageFailure => {
  if (signal.aborted) throw signal.reason;
  if (error instanceof StageFailure) return error;
  const causes = causesOf(error);
  const tooLarge = causes.find((cause) => cause instanceof BodyTooLarge);
  if (tooLarge)
    return new StageFailure(
      "provider_bad_answer",
      `${callee.name} sent too much: ${tooLarge.message}. Check ${callee.addressSetting}.`,
    );
  if (causes.some((cause) => cause instanceof SyntaxError))
    return new StageFailure(
      "provider_bad_answer",
      `${callee.name} did not answer in JSON. Check ${callee.addressSetting}.`,
      {
        evidence: withoutKey(callee, String(causes.at(-1)?.message)),
      },
    );
  const reason = causes.map((cause) =>
    "code" in cause && typeof cause.code === "string" ? cause.code : cause.message,
  );
  return new StageFailure(
    "provider_unavailable",
    withoutKey(
      callee,
      `${callee.name} did not answer: ${reason.at(-1) ?? "unknown"}. Check ${callee.addressSetting} and the network of this host.`,
    ),
    { evidence: withoutKey(callee, reason.join(" <- ")) },
  );
};

export const badAnswer = (callee: Callee, what: string, evidence = ""): StageFailure =>
  new StageFailure("provider_bad_answer", `${callee.name} answered, but ${what}.`, {
    evidence: withoutKey(callee, evidence.slice(0, maxEvidenceCharacters)),
  });

/** Placeholders of servers that want no key, like "none", are words of ordinary messages. */
const minKeyCharacters = 8;
const withoutKey = (callee: Callee, text: string): string =>
  callee.apiKey.length < minKeyCharacters ? text : text.replaceAll(callee.apiKey, "***");

const causesOf = (error: unknown): Error[] => {
  const causes: Error[] = [];
  for (let at = error; at instanceof Error && causes.length < 8; at = at.cause) causes.push(at);
  return causes;
};
