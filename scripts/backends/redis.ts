// A Redis for one test run: loopback only, a port of its own, nothing written to disk.
import { connect } from "node:net";
import { freePort, type ServerProcess, startServer } from "./server-process.ts";

/** With a port it starts where an earlier one was. */
export const startRedis = async (folder: string, at?: number): Promise<ServerProcess & { readonly url: string }> => {
  const port = at ?? (await freePort());
  const server = await startServer({
    name: "redis-server",
    program: "redis-server",
    args: ["--bind", "127.0.0.1", "--port", `${port}`, "--save", "", "--appendonly", "no", "--dir", folder],
    cwd: folder,
    stopSignal: "SIGTERM",
    deadlineMs: 10_000,
    answers: () => ping(port),
  });
  return { ...server, url: `redis://127.0.0.1:${port}/0` };
};

const ping = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect({ host: "127.0.0.1", port, timeout: 1000 }, () => socket.write("PING\r\n"));
    socket.once("data", (data) => {
      resolve(data.toString("latin1").startsWith("+PONG"));
      socket.destroy();
    });
    for (const event of ["error", "timeout", "close"])
      socket.once(event, () => {
        resolve(false);
        socket.destroy();
      });
  });
