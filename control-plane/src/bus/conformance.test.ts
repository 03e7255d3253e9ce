// What the loops and edges rely on, for the memory bus always and for the Redis that TEST_REDIS_URL names.
// With RENDERPLANE_TEST_BACKENDS=all (CI) a missing URL is a failure, not a gap. What only Redis can do wrong (it hangs, it
// goes and comes back) is shown through a proxy in front of it.
import { createConnection, createServer, type Server, type Socket } from "node:net";
import { setTimeout as pause } from "node:timers/promises";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { Redis } from "ioredis";
import { afterEach, describe, expect, test } from "vitest";
import type { Bus } from "./bus.ts";
import { createMemoryBus } from "./memory.ts";
import { bellChannel, createRedisBus } from "./redis.ts";

const url = process.env.TEST_REDIS_URL;

const cleanups: (() => Promise<unknown> | unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});
const started = async (bus: Bus): Promise<Bus> => {
  cleanups.push(() => bus.stop());
  await bus.start();
  return bus;
};
const until = async (what: string, test: () => boolean): Promise<void> => {
  const end = performance.now() + 10_000;
  while (!test()) {
    if (performance.now() > end) throw new Error(`waited 10 s for: ${what}`);
    await pause(5);
  }
};

test("every backend that must be proven is here", () => {
  if (process.env.RENDERPLANE_TEST_BACKENDS === "all") expect(url, "TEST_REDIS_URL").toBeTruthy();
  expect(createMemoryBus().name).toBe("bus (memory)");
});

const backends = [
  { backend: "memory", make: () => createMemoryBus() },
  ...(url ? [{ backend: "Redis", make: () => createRedisBus({ url }) }] : []),
];

describe.each(backends)("$backend", ({ make }) => {
  test("a bell wakes the listeners of its topic, and no others, until they stop listening", async () => {
    const bus = await started(make());
    const heard: string[] = [];
    const stop = bus.on("ready", () => heard.push("ready"));
    bus.on("events", () => heard.push("events"));
    bus.on("host:h_1", () => heard.push("host"));
    bus.ring("ready");
    expect(heard).toEqual([]);
    await until("the first bell", () => heard.length === 1);
    stop();
    stop();
    bus.ring("ready");
    bus.ring("host:h_1");
    await until("the host's bell", () => heard.includes("host"));
    expect(heard).toEqual(["ready", "host"]);
  });

  test("bells that ring together are one call", async () => {
    const bus = await started(make());
    let calls = 0;
    let others = 0;
    bus.on("ready", () => {
      calls += 1;
    });
    bus.on("events", () => {
      others += 1;
    });
    for (let n = 0; n < 100; n++) bus.ring("ready");
    bus.ring("events");
    await until("both", () => calls > 0 && others > 0);
    expect(calls).toBe(1);
  });

  test("a listener that throws disturbs nobody", async () => {
    const bus = await started(make());
    let calls = 0;
    bus.on("ready", () => {
      throw new Error("broken listener");
    });
    bus.on("ready", () => {
      calls += 1;
    });
    bus.ring("ready");
    await until("the other listener", () => calls === 1);
  });

  test("a live message arrives as JSON, in order, and what is no JSON or too large is dropped", async () => {
    const bus = await started(make());
    const heard: unknown[] = [];
    bus.subscribe("pipeline:progress", (message) => heard.push(message));
    const sent = { video_id: "v_1", at: new Date(0), progress: 12.5 };
    // A subscription takes effect in time, not at once.
    await until("the subscription", () => {
      bus.publish("pipeline:progress", "ping");
      return heard.length > 0;
    });
    bus.publish("pipeline:progress", { cost: 1n });
    bus.publish("pipeline:progress", undefined);
    bus.publish("pipeline:progress", "x".repeat(300 * 1024));
    bus.publish("pipeline:other", "elsewhere");
    bus.publish("pipeline:progress", sent);
    bus.publish("pipeline:progress", "last");
    await until("the last message", () => heard.at(-1) === "last");
    expect(heard.filter((m) => m !== "ping")).toEqual([
      { video_id: "v_1", at: "1970-01-01T00:00:00.000Z", progress: 12.5 },
      "last",
    ]);
  });

  test("start and stop may be called twice, and nothing throws before, after or without them", async () => {
    const bus = make();
    bus.ring("ready");
    bus.publish("pipeline:progress", {});
    await bus.start();
    await bus.start();
    const stopListening = bus.subscribe("pipeline:progress", () => {});
    await bus.stop();
    await bus.stop();
    stopListening();
    bus.ring("ready");
    bus.publish("pipeline:progress", {});
  });
});

if (url) {
  describe("Redis between replicas", () => {
    test("a bell of one replica rings in the other, and once in its own", async () => {
      const [here, there] = [await started(createRedisBus({ url })), await started(createRedisBus({ url }))];
      const heard = { here: 0, there: 0 };
      here.on("host:h_9", () => {
        heard.here += 1;
      });
      there.on("host:h_9", () => {
        heard.there += 1;
      });
      here.ring("host:h_9");
      await until("the other replica", () => heard.there === 1);
      // The echo of its own bell has arrived by now: a bell from there comes after it on the same connection.
      const after = Promise.withResolvers<void>();
      here.on("host:h_10", () => after.resolve());
      there.ring("host:h_10");
      await after.promise;
      expect(heard).toEqual({ here: 1, there: 1 });
    });

    test("an older client that subscribes to pipeline:progress by itself gets plain JSON", async () => {
      const bus = await started(createRedisBus({ url }));
      const client = new Redis(url);
      cleanups.push(() => client.disconnect());
      const got = new Promise<string>((resolve) => client.once("message", (_channel, text) => resolve(text)));
      await client.subscribe("pipeline:progress");
      bus.publish("pipeline:progress", { video_id: "v_1", stage: "video_rendering", progress: 40 });
      expect(JSON.parse(await got)).toEqual({ video_id: "v_1", stage: "video_rendering", progress: 40 });
    });

    test("noise on the bell channel rings nothing that is not a topic, and breaks nothing", async () => {
      const bus = await started(createRedisBus({ url }));
      const client = new Redis(url);
      cleanups.push(() => client.disconnect());
      let calls = 0;
      bus.on("ready", () => {
        calls += 1;
      });
      await until("the bell channel", () => {
        void client.publish(bellChannel, "stranger ready");
        return calls > 0;
      });
      for (const noise of ["", "ready", "\u0000", "a b c d", "{}"]) await client.publish(bellChannel, noise);
      const settled = calls;
      await client.publish(bellChannel, "stranger ready");
      await until("the next bell", () => calls > settled);
    });

    test("Redis goes and comes back: nothing waits, this replica hears itself, and every topic rings after the return", async () => {
      const proxy = await proxyTo(url);
      const bus = await started(createRedisBus({ url: proxy.url, log: silentLogger() }));
      let ready = 0;
      const messages: unknown[] = [];
      bus.on("ready", () => {
        ready += 1;
      });
      bus.subscribe("pipeline:progress", (message) => messages.push(message));
      await proxy.cut();
      const began = performance.now();
      for (let n = 0; n < 5_000; n++) bus.publish("pipeline:progress", { n });
      bus.ring("ready");
      expect(performance.now() - began).toBeLessThan(1_000);
      await until("its own bell and messages", () => ready > 0 && messages.length > 0);

      const before = ready;
      await proxy.restore();
      await until("all topics to ring after the reconnect", () => ready > before);
      // The subscription is back too: this comes from Redis, sent by somebody else.
      const client = new Redis(url);
      cleanups.push(() => client.disconnect());
      await client.publish("pipeline:progress", JSON.stringify("from outside"));
      await until("a message through the new connection", () => messages.includes("from outside"));
    });

    test("Redis hangs: start, ring, publish and stop do not", async () => {
      const proxy = await proxyTo(url);
      proxy.hold();
      const bus = createRedisBus({ url: proxy.url });
      const began = performance.now();
      await bus.start();
      let ready = 0;
      bus.on("ready", () => {
        ready += 1;
      });
      for (let n = 0; n < 2_000; n++) bus.publish("pipeline:progress", { n });
      bus.ring("ready");
      await until("its own bell", () => ready === 1);
      await bus.stop();
      expect(performance.now() - began).toBeLessThan(8_000);
    });

    test("no Redis at the start: the bus starts, and joins when Redis comes", async () => {
      const proxy = await proxyTo(url);
      await proxy.cut();
      const bus = await started(createRedisBus({ url: proxy.url }));
      let ready = 0;
      bus.on("ready", () => {
        ready += 1;
      });
      await proxy.restore();
      await until("all topics to ring at the first connection", () => ready > 0);
    });
  });
}

/** A TCP proxy that can refuse, cut and fall silent, in front of a Redis that other tests use at the same time. */
const proxyTo = async (target: string) => {
  const { hostname, port } = new URL(target);
  const sockets = new Set<Socket>();
  let isHeld = false;
  const server: Server = createServer((near) => {
    const far = createConnection({ host: hostname, port: Number(port || 6379) });
    near.on("data", (bytes) => isHeld || far.write(bytes));
    far.on("data", (bytes) => isHeld || near.write(bytes));
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one);
      one
        .on("error", () => {})
        .on("close", () => {
          sockets.delete(one);
          other.destroy();
        });
    }
  });
  const listen = (wanted: number) => new Promise<void>((resolve) => server.listen(wanted, "127.0.0.1", resolve));
  await listen(0);
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  const cut = async () => {
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    for (const socket of sockets) socket.destroy();
    await closed;
  };
  cleanups.push(() => (server.listening ? cut() : undefined));
  return {
    url: `redis://127.0.0.1:${address.port}`,
    cut,
    restore: () => listen(address.port),
    hold: () => {
      isHeld = true;
    },
  };
};
