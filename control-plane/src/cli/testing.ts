// For tests of the command line: a small server that speaks the HTTP interface from a table of answers, and a way to run a
// command line inside the test with captured streams. Nothing in the product imports this file.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { Readable, Writable } from "node:stream";
import { runCommandLine } from "./program.ts";
import type { JobJson, StageJson } from "./shapes.ts";

export type Answer =
  | { readonly status: number; readonly body: unknown }
  | ((request: IncomingMessage, response: ServerResponse, body: string) => void);

export type FakeServer = {
  readonly url: string;
  /** "GET /path" without the query; the newest entry wins. */
  answer(route: string, answer: Answer): void;
  readonly requests: {
    readonly route: string;
    readonly query: string;
    readonly headers: IncomingMessage["headers"];
    readonly body: string;
  }[];
  /** Ends open connections, as a dying server does. */
  dropAll(): void;
  close(): Promise<void>;
};

export const startFakeServer = async (): Promise<FakeServer> => {
  const answers = new Map<string, Answer>();
  const requests: FakeServer["requests"] = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request.setEncoding("latin1")) body += chunk;
    const url = new URL(request.url ?? "/", "http://fake");
    const route = `${request.method} ${url.pathname}`;
    requests.push({ route, query: url.search, headers: request.headers, body });
    const answer = answers.get(route) ?? { status: 404, body: { code: "not_found", detail: `nothing at ${route}` } };
    if (typeof answer === "function") return answer(request, response, body);
    response.writeHead(answer.status, { "content-type": "application/json" }).end(JSON.stringify(answer.body));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  return {
    url: `http://127.0.0.1:${address.port}`,
    answer: (route, answer) => void answers.set(route, answer),
    requests,
    dropAll: () => server.closeAllConnections(),
    close: async () => {
      server.closeAllConnections();
      // Closing twice is fine: a test may have done it to play a dead server.
      await new Promise((resolve) => server.close(resolve));
    },
  };
};

const capture = (): Writable & { text(): string } => {
  let text = "";
  const stream = new Writable({
    write: (chunk, _encoding, done) => {
      text += chunk;
      done();
    },
  });
  return Object.assign(stream, { text: () => text });
};

export type Ended = { readonly exitCode: number; readonly stdout: string; readonly stderr: string };

export const runCli = async (
  argv: readonly string[],
  more: { env?: Record<string, string>; stdin?: string; signal?: AbortSignal } = {},
): Promise<Ended> => {
  const [stdout, stderr] = [capture(), capture()];
  const exitCode = await runCommandLine(argv, {
    streams: { stdout, stderr },
    env: { ...more.env },
    stdin: Readable.from([more.stdin ?? ""]),
    signal: more.signal ?? new AbortController().signal,
  });
  return { exitCode, stdout: stdout.text(), stderr: stderr.text() };
};

export const stageJson = (name: string, more: Partial<StageJson> = {}): StageJson => ({
  name,
  kind: name,
  state: "pending",
  progress: 0,
  step: "",
  eta_seconds: null,
  tries: 0,
  retries: 1,
  actual_cost: 0,
  started_at: null,
  ended_at: null,
  elapsed_seconds: null,
  failure: null,
  result: null,
  attempts: [],
  ...more,
});

export const jobJson = (more: Partial<JobJson> = {}): JobJson => ({
  id: "v_01KX0000000000000000000000",
  external_id: null,
  pipeline: "narrated-video",
  priority: 5,
  complexity: "simple",
  state: "processing",
  status_text: "Rendering 43 % (about 2 min left)",
  progress: 0.43,
  eta_seconds: 120,
  position: -1,
  created_at: "2026-11-22T09:00:00.000Z",
  started_at: "2026-11-22T09:00:01.000Z",
  ended_at: null,
  elapsed_seconds: 61,
  estimated_cost: 2.5,
  actual_cost: 0.0042,
  user_id: "dana",
  channel_id: "news",
  costs: [{ service: "cpu_compute", provider: "host", amount: 0.0042 }],
  failure: null,
  stages: [
    stageJson("script_generation", { state: "succeeded", progress: 1 }),
    stageJson("video_rendering", { state: "running" }),
  ],
  ...more,
});
