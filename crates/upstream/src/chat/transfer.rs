//! Files: each over a connection of its own, so that a large one holds up no message.

use std::{io, time::Duration};

use bytes::Bytes;
use estafet_chatd::{
    blobs::PIECE,
    noise::{StaticKey, Transport},
};
use estafet_proto::chat::{self, ClientFrame, ServerFrame, client_frame, server_frame};
use futures::StreamExt as _;
use tokio::{net::TcpStream, time::timeout};

use super::ChatUpstream;
use crate::{BlobError, BlobStream};

/// Longest silence within a transfer.
const SILENCE: Duration = Duration::from_secs(30);

fn lost(error: impl std::fmt::Display) -> BlobError {
    BlobError::Unreachable(error.to_string())
}

impl ChatUpstream {
    /// A connection for files; who asks does not matter to the network, so the key is a fresh one.
    async fn open(&self) -> Result<Transport<TcpStream>, BlobError> {
        let key = StaticKey::generate();
        let mut failures = Vec::new();
        for address in &self.addresses {
            match self.dial(address, &key).await {
                Ok(transport) => return Ok(transport),
                Err(failure) => failures.push(format!("{address}: {failure}")),
            }
        }
        Err(BlobError::Unreachable(failures.join("; ")))
    }

    pub(super) async fn put(&self, mut content: BlobStream) -> Result<String, BlobError> {
        let mut transport = self.open().await?;
        send(&mut transport, client_frame::Frame::BlobPut(chat::BlobPut {})).await?;
        while let Some(piece) = content.next().await {
            let mut piece = piece.map_err(BlobError::Source)?;
            while !piece.is_empty() {
                let data = piece.split_to(piece.len().min(PIECE));
                send(&mut transport, client_frame::Frame::BlobPart(chat::BlobPart { data, is_last: false })).await?;
            }
        }
        send(&mut transport, client_frame::Frame::BlobPart(chat::BlobPart { data: Bytes::new(), is_last: true })).await?;
        match receive(&mut transport).await? {
            server_frame::Frame::BlobStored(stored) => Ok(stored.id),
            _ => Err(lost("the file was answered by something else")),
        }
    }

    pub(super) async fn get(&self, id: &str) -> Result<BlobStream, BlobError> {
        let mut transport = self.open().await?;
        send(&mut transport, client_frame::Frame::BlobGet(chat::BlobGet { id: id.to_owned() })).await?;
        let first = match receive(&mut transport).await? {
            server_frame::Frame::BlobPart(part) => part,
            server_frame::Frame::BlobMissing(_) => return Err(BlobError::Missing),
            _ => return Err(lost("the file was answered by something else")),
        };
        let parts = futures::stream::unfold(Some((transport, Some(first))), |state| async move {
            let (mut transport, first) = state?;
            let part = match first {
                Some(part) => Ok(part),
                None => match receive(&mut transport).await {
                    Ok(server_frame::Frame::BlobPart(part)) => Ok(part),
                    Ok(_) => Err(lost("something else came within a file")),
                    Err(error) => Err(error),
                },
            };
            match part {
                Ok(part) if part.is_last => None,
                Ok(part) => Some((Ok(part.data), Some((transport, None)))),
                Err(error) => Some((Err(io::Error::other(error)), None)),
            }
        });
        Ok(parts.boxed())
    }
}

async fn send(transport: &mut Transport<TcpStream>, frame: client_frame::Frame) -> Result<(), BlobError> {
    transport.writer.feed(&ClientFrame { frame: Some(frame) }).map_err(lost)?;
    timeout(SILENCE, transport.writer.flush()).await.map_err(lost)?.map_err(lost)
}

async fn receive(transport: &mut Transport<TcpStream>) -> Result<server_frame::Frame, BlobError> {
    let frame = timeout(SILENCE, transport.reader.next::<ServerFrame>()).await.map_err(lost)?.map_err(lost)?;
    frame.and_then(|frame| frame.frame).ok_or_else(|| lost("closed by the network"))
}
