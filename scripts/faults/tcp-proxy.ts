// A TCP proxy in the test's own process: the network between two programs of this machine, and everything that goes wrong with one.
// What is held back is delivered once the network heals, as TCP would send it again; so a partition ends with old messages arriving
// late, which is the hard case. Listens on 127.0.0.1 only. Knows nothing of what it carries.
import { connect, createServer, type Socket } from "node:net";
import { setTimeout as pause } from "node:timers/promises";

export type Weather = {
  /** Bytes towards the target (up) or back (down) are held; so are ends of connections. Both: a black hole. */
  readonly hold?: "up" | "down" | "both";
  /** Added to every chunk on its way, one way. */
  readonly delayMs?: number;
  /** Each direction of each connection. */
  readonly bytesPerSecond?: number;
  /** Every connection is reset as soon as it is made. */
  readonly refuse?: boolean;
  /** A connection is reset once so many bytes have gone up it. */
  readonly cutAfterBytes?: number;
};

export type TcpProxy = {
  readonly address: string;
  set(weather: Weather): void;
  heal(): void;
  /** RST to both sides of every connection that is open now. */
  sever(): void;
  connections(): number;
  /** Since the start, both directions. */
  bytes(): number;
  stop(): Promise<void>;
};

/** Held in one direction of one connection; above it the sender is not read any more, as a full window would do. */
const maxHeldBytes = 1024 * 1024;
const lookMs = 10;

export const openProxy = async (target: string): Promise<TcpProxy> => {
  const [host = "", port = ""] = target.split(":");
  const pairs = new Set<readonly [Socket, Socket]>();
  let weather: Weather = {};
  let carried = 0;
  let isStopped = false;

  const reset = (pair: readonly [Socket, Socket]) => {
    pairs.delete(pair);
    for (const socket of pair) socket.resetAndDestroy();
  };

  const carry = async (from: Socket, to: Socket, way: "up" | "down", pair: readonly [Socket, Socket]) => {
    const held: { readonly chunk: Buffer; readonly atMs: number }[] = [];
    let heldBytes = 0;
    let sentBytes = 0;
    let isOver = false;
    from.on("data", (chunk: Buffer) => {
      held.push({ chunk, atMs: performance.now() });
      heldBytes += chunk.length;
      if (heldBytes > maxHeldBytes) from.pause();
    });
    for (const event of ["end", "error", "close"] as const) from.on(event, () => (isOver = true));
    const isHeld = () => weather.hold === "both" || weather.hold === way;
    while (pairs.has(pair) && !isStopped) {
      const next = held[0];
      const isDue = next !== undefined && performance.now() - next.atMs >= (weather.delayMs ?? 0);
      if (isHeld() || !isDue) {
        if (isOver && next === undefined && !isHeld()) break;
        await pause(lookMs);
        continue;
      }
      held.shift();
      heldBytes -= next.chunk.length;
      if (heldBytes <= maxHeldBytes) from.resume();
      carried += next.chunk.length;
      sentBytes += next.chunk.length;
      if (!to.destroyed) to.write(next.chunk);
      if (way === "up" && weather.cutAfterBytes !== undefined && sentBytes >= weather.cutAfterBytes) reset(pair);
      if (weather.bytesPerSecond !== undefined) await pause((next.chunk.length / weather.bytesPerSecond) * 1000);
    }
    to.end();
    if (from.destroyed && to.destroyed) pairs.delete(pair);
  };

  const server = createServer((client) => {
    if (weather.refuse) return client.resetAndDestroy();
    const upstream = connect({ host, port: Number(port) });
    const pair = [client, upstream] as const;
    pairs.add(pair);
    for (const socket of pair) {
      socket.setNoDelay(true);
      socket.on("error", () => {});
    }
    // A target that does not listen is a refused connection for the client too.
    upstream.once("error", () => reset(pair));
    void carry(client, upstream, "up", pair);
    void carry(upstream, client, "down", pair);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the proxy has no port");
  return {
    address: `127.0.0.1:${address.port}`,
    set: (next) => {
      weather = next;
    },
    heal: () => {
      weather = {};
    },
    sever: () => {
      for (const pair of [...pairs]) reset(pair);
    },
    connections: () => pairs.size,
    bytes: () => carried,
    stop: async () => {
      isStopped = true;
      for (const pair of [...pairs]) reset(pair);
      await new Promise((resolve) => server.close(resolve));
    },
  };
};
