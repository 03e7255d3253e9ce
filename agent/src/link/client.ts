// Channels to the control plane: the options and the TLS that every call uses. Normal verification of chain and name, always;
// there is no switch that turns it off.
import { isIP } from "node:net";
import { checkServerIdentity } from "node:tls";
import { type ChannelCredentials, type ClientOptions, credentials } from "@grpc/grpc-js";
import { AgentServiceClient } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { maxReceiveMessageBytes } from "@renderplane/proto/kernel/limits.ts";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";
import type { Identity } from "./identity.ts";

// Without keepalive a dead network is never noticed; without the short back-off a returned server waits up to 14 s for its hosts.
const options: ClientOptions = {
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 5_000,
  "grpc.keepalive_permit_without_calls": 1,
  "grpc.initial_reconnect_backoff_ms": 500,
  "grpc.max_reconnect_backoff_ms": 3_000,
  "grpc.max_receive_message_length": maxReceiveMessageBytes,
  // The session is resumed by our own loop, a completion by the journal.
  "grpc.enable_retries": 0,
  // One connection a link, also when a test runs many agents in one process.
  "grpc.use_local_subchannel_pool": 1,
  // The pin is read over a direct connection, so the calls go directly too.
  "grpc.enable_http_proxy": 0,
};

/** "[::1]:7443" -> ::1 and 7443. Throws ConfigError. */
export const splitAddress = (address: string): { readonly host: string; readonly port: number } => {
  const at = address.lastIndexOf(":");
  const host = address.slice(0, at).replace(/^\[|\]$/g, "");
  const port = Number(address.slice(at + 1));
  if (at < 0 || !Number.isInteger(port) || port < 1 || port > 65535)
    throw new ConfigError(`the address of the control plane must be host:port, got ${JSON.stringify(address)}`);
  return { host, port };
};

/** An address has no place in SNI: there a name that every server certificate has stands in, and the address itself is checked. */
export const channelTo = (
  address: string,
  roots: string,
  pair?: { readonly key: string; readonly certificate: string },
): { readonly credentials: ChannelCredentials; readonly options: ClientOptions } => {
  const { host } = splitAddress(address);
  const isAddress = isIP(host) !== 0;
  const made = credentials.createSsl(
    Buffer.from(roots),
    pair ? Buffer.from(pair.key) : null,
    pair ? Buffer.from(pair.certificate) : null,
    isAddress ? { checkServerIdentity: (_name, certificate) => checkServerIdentity(host, certificate) } : {},
  );
  return {
    credentials: made,
    options: isAddress ? { ...options, "grpc.ssl_target_name_override": "localhost" } : options,
  };
};

export const openClient = (address: string, identity: Identity): AgentServiceClient => {
  const channel = channelTo(address, identity.authorities, identity);
  return new AgentServiceClient(address, channel.credentials, channel.options);
};
