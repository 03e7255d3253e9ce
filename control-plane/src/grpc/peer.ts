// Who calls: the host and the certificate's serial, read from the verified client certificate and from nothing else.
// Whether that certificate is still accepted (revoked, superseded) is answered by the operations.
import type { PeerCertificate } from "node:tls";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";

export type Peer = { readonly hostId: string; readonly serial: string };

// The only name that the authority gives to a host.
const namePattern = /^URI:renderplane:\/\/host\/(h_[0-9A-HJKMNP-TV-Z]{26})$/;

/** Throws certificate_refused. */
export const peerOf = (call: { getAuthContext(): { sslPeerCertificate?: PeerCertificate } }): Peer => {
  const certificate = call.getAuthContext().sslPeerCertificate;
  const hostId = namePattern.exec(certificate?.subjectaltname ?? "")?.[1];
  const serial = certificate?.serialNumber?.toLowerCase();
  if (hostId === undefined || !serial)
    throw new RenderplaneError(
      "certificate_refused",
      "the client certificate names no host of this control plane; enrol the agent with a join token",
    );
  return { hostId, serial };
};
