// Calls the HTTP interface of one control plane. Turns every bad answer into a CliFailure with the right exit code; knows
// nothing about commands or printing. Requests time out, streams do not.
import { CliFailure, exitCodes, failureOfProblem } from "./failure.ts";
import type { ProblemJson } from "./shapes.ts";

/** An answer that has not begun by then will not come; submissions with large media pass a longer one. */
const answerMs = 30_000;
export const defaultServer = "http://127.0.0.1:8000";

export type Client = {
  readonly server: string;
  get<T>(path: string, signal?: AbortSignal): Promise<T>;
  post<T>(path: string, body: unknown, headers?: Record<string, string>): Promise<T>;
  /** For acts that answer nothing. */
  delete(path: string): Promise<void>;
  postForm<T>(path: string, form: FormData, headers?: Record<string, string>): Promise<T>;
  /** The open body of an answer: an event stream or a file. */
  open(path: string, headers: Record<string, string>, signal: AbortSignal): Promise<Response>;
};

export const createClient = (server: string, stop: AbortSignal): Client => {
  const base = serverUrl(server);
  const call = async (path: string, init: RequestInit): Promise<Response> => {
    let response: Response;
    try {
      response = await fetch(base + path, init);
    } catch (error) {
      throw unreachable(base, error);
    }
    if (response.ok) return response;
    throw failureOfProblem(response.status, await readProblem(response));
  };
  const json = async <T>(path: string, init: RequestInit): Promise<T> => {
    const response = await call(path, init);
    try {
      return (await response.json()) as T;
    } catch (error) {
      throw new CliFailure(
        exitCodes.unexpected,
        `${base}${path} did not answer with JSON; is this a Renderplane server?`,
        {
          cause: error,
        },
      );
    }
  };
  return {
    server: base,
    get: (path, signal = stop) => json(path, { signal: AbortSignal.any([AbortSignal.timeout(answerMs), signal]) }),
    post: (path, body, headers = {}) =>
      json(path, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: JSON.stringify(body),
        signal: AbortSignal.any([AbortSignal.timeout(answerMs), stop]),
      }),
    delete: async (path) => {
      await call(path, { method: "DELETE", signal: AbortSignal.any([AbortSignal.timeout(answerMs), stop]) });
    },
    // No limit: eight gigabytes over a slow line take as long as they take, and a dead line ends by itself.
    postForm: (path, form, headers = {}) => json(path, { method: "POST", headers, body: form, signal: stop }),
    open: (path, headers, signal) => call(path, { headers, signal }),
  };
};

const serverUrl = (server: string): string => {
  const text = /^https?:\/\//.test(server) ? server : `http://${server}`;
  if (!URL.canParse(text))
    throw new CliFailure(exitCodes.usage, `The server address ${JSON.stringify(server)} is not a URL`, {
      next: `Give one like ${defaultServer} with --server or RENDERPLANE_SERVER.`,
    });
  return text.replace(/\/+$/, "");
};

const readProblem = async (response: Response): Promise<ProblemJson> => {
  const text = await response.text().catch(() => "");
  try {
    const body: unknown = JSON.parse(text);
    if (typeof body === "object" && body !== null) return body as ProblemJson;
  } catch {
    // Not ours, a proxy's page: the status says enough.
  }
  return { title: `The server answered ${response.status} ${response.statusText}`.trim() };
};

const unreachable = (server: string, error: unknown): CliFailure => {
  if (error instanceof CliFailure) return error;
  if (error instanceof Error && error.name === "TimeoutError")
    return new CliFailure(exitCodes.unreachable, `${server} did not answer in ${answerMs / 1000} s`, { cause: error });
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const reason = (cause as { code?: string }).code ?? (cause instanceof Error ? cause.message : String(cause));
  return new CliFailure(exitCodes.unreachable, `${server} cannot be reached (${reason})`, {
    next: "Start it with ./scripts/quickstart, or name another one with --server or RENDERPLANE_SERVER.",
    cause: error,
  });
};
