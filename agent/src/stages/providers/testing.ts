// A small HTTP server on loopback that plays an outside service in tests: it speaks the real protocol, records what it was
// asked, and can misbehave in the ways that real ones do. A test closes it; hanging answers end with it.
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";

export type Asked = {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
};

export type Reply =
  | { readonly status?: number; readonly headers?: { readonly [name: string]: string }; readonly body?: unknown }
  /** Accepts the connection and never answers. */
  | "hang"
  /** Sends bytes until the other side leaves. */
  | "endless"
  /** Closes the connection in the middle of a body. */
  | "cut";

export type PlayedServer = {
  readonly url: string;
  readonly asked: Asked[];
  /** Bytes that left for "endless" answers: shows that the client stopped reading. */
  sentBytes(): number;
  close(): Promise<void>;
};

export const playServer = async (reply: (asked: Asked) => Reply): Promise<PlayedServer> => {
  const asked: Asked[] = [];
  let sent = 0;
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const url = new URL(request.url ?? "/", "http://localhost");
      const question: Asked = {
        method: request.method ?? "",
        path: url.pathname,
        query: url.searchParams,
        headers: request.headers,
        body: Buffer.concat(chunks).toString("utf8"),
      };
      asked.push(question);
      const answer = reply(question);
      if (answer === "hang") return;
      if (answer === "cut") {
        response.writeHead(200, { "content-type": "application/json", "content-length": "100000" });
        response.write('{"choices":', () => response.destroy());
        return;
      }
      if (answer === "endless") {
        response.writeHead(200, { "content-type": "application/json" });
        const more = () => {
          while (!response.destroyed) {
            sent += 65_536;
            if (!response.write("x".repeat(65_536))) return void response.once("drain", more);
          }
        };
        more();
        return;
      }
      const { status = 200, headers = {}, body = {} } = answer;
      const bytes = typeof body === "string" || Buffer.isBuffer(body) ? body : JSON.stringify(body);
      response.writeHead(status, { "content-type": "application/json", ...headers });
      response.end(bytes);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    asked,
    sentBytes: () => sent,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
};
