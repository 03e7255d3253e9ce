// What holds when nothing is set: nobody but this machine reaches anything, and nothing else is needed.
import { expect, test } from "vitest";
import { readConfig } from "./config.ts";

test("[S289] without settings every listener is on the loopback, and no outside server is dialled", () => {
  const config = readConfig({});
  const hosts = [config.listen, config.agentListen, config.enrolListen].map((address) => address.split(":")[0]);
  expect(hosts).toEqual(["127.0.0.1", "127.0.0.1", "127.0.0.1"]);
  expect([config.databaseUrl, config.redisUrl, config.publicUrl]).toEqual([undefined, undefined, undefined]);
});

test.each([
  ["RENDERPLANE_AGENT_ADDRESS", "https://farm.example:7443"],
  ["RENDERPLANE_AGENT_ADDRESS", "farm.example"],
  ["RENDERPLANE_LISTEN", "8000"],
  ["RENDERPLANE_REPLICA", "Main one"],
  ["RENDERPLANE_REPLICAS", "2"],
])("%s=%s is refused, and the message names the setting", (name, value) => {
  expect(() => readConfig({ [name]: value })).toThrow(name);
});
