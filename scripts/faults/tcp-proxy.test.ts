// The proxy that stands for the network: each kind of weather against an echo server over real sockets.
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { afterEach, beforeEach, expect, test } from "vitest";
import { openProxy, type TcpProxy } from "./tcp-proxy.ts";
import { until } from "./until.ts";

let server: Server;
let proxy: TcpProxy;
let received = "";
const sockets: Socket[] = [];

beforeEach(async () => {
  received = "";
  server = createServer((socket) => {
    socket.on("error", () => {});
    socket.on("data", (data: Buffer) => {
      received += data.toString();
      socket.write(data);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  proxy = await openProxy(`127.0.0.1:${address.port}`);
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await proxy.stop();
  await new Promise((resolve) => server.close(resolve));
});

const dial = async (): Promise<{
  readonly socket: Socket;
  readonly heard: () => string;
  readonly isOver: () => boolean;
}> => {
  const [host = "", port = ""] = proxy.address.split(":");
  const socket = connect({ host, port: Number(port) });
  sockets.push(socket);
  let heard = "";
  let isOver = false;
  socket.on("data", (data: Buffer) => {
    heard += data.toString();
  });
  socket.on("error", () => {});
  socket.on("close", () => {
    isOver = true;
  });
  await Promise.race([once(socket, "connect"), once(socket, "close")]).catch(() => {});
  return { socket, heard: () => heard, isOver: () => isOver };
};

test("in fair weather everything passes, both ways", async () => {
  const { socket, heard } = await dial();
  socket.write("hello");
  await until("the echo", () => heard() === "hello");
  expect(proxy.bytes()).toBe(10);
});

test("a black hole keeps the connection and delivers late, in order, when it heals", async () => {
  const { socket, heard, isOver } = await dial();
  proxy.set({ hold: "both" });
  socket.write("one ");
  socket.write("two");
  await pauseFor(150);
  expect({ received, heard: heard(), isOver: isOver() }).toEqual({ received: "", heard: "", isOver: false });
  proxy.heal();
  await until("the late echo", () => heard() === "one two");
});

test("one way only: what goes up arrives, what comes down does not", async () => {
  const { socket, heard } = await dial();
  proxy.set({ hold: "down" });
  socket.write("up");
  await until("it arrived", () => received === "up");
  await pauseFor(100);
  expect(heard()).toBe("");
});

test("a delay and a narrow line take their time", async () => {
  const { socket, heard } = await dial();
  proxy.set({ delayMs: 150 });
  const began = performance.now();
  socket.write("x");
  await until("the delayed echo", () => heard() === "x");
  expect(performance.now() - began).toBeGreaterThanOrEqual(300);
});

test("resets: severed, refused, and cut after so many bytes", async () => {
  const first = await dial();
  proxy.sever();
  await until("severed", first.isOver);
  proxy.set({ cutAfterBytes: 5 });
  const second = await dial();
  second.socket.write("123456");
  await until("cut", second.isOver);
  proxy.set({ refuse: true });
  const third = await dial();
  await until("refused", third.isOver);
  expect(proxy.connections()).toBe(0);
});

const pauseFor = (ms: number): Promise<number> => {
  const end = performance.now() + ms;
  return until(`${ms} ms`, () => performance.now() > end);
};
