//! A listener whose connections shake hands when they are first read, so that a slow client holds up nobody but itself
//! and falls under the same time limits as one that is slow with its request.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{Accept, TlsAcceptor, server::TlsStream};

use super::WebConfig;

/// Plain or TLS, as the configuration in force says for each new connection.
#[derive(Debug)]
pub struct WebListener {
    inner: TcpListener,
    config: Option<Arc<WebConfig>>,
}

impl WebListener {
    #[must_use]
    pub const fn new(inner: TcpListener, config: Option<Arc<WebConfig>>) -> Self {
        Self { inner, config }
    }
}

impl Listener for WebListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The inner one logs what fails and tries again.
        let (stream, peer) = Listener::accept(&mut self.inner).await;
        let tls = self.config.as_ref().and_then(|config| config.current().tls.clone());
        let connection = match tls {
            None => Connection::Plain(stream),
            Some(tls) => Connection::Greeting(Box::new(TlsAcceptor::from(tls).accept(stream))),
        };
        (connection, peer)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// One connection.
pub enum Connection {
    Plain(TcpStream),
    /// The handshake is not over.
    Greeting(Box<Accept<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Greeting(_) => "Greeting",
            Self::Tls(_) => "Tls",
        })
    }
}

/// What can be read from and written to.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl Connection {
    /// The stream, once hands are shaken.
    fn poll_stream(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Pin<&mut dyn Stream>>> {
        if let Self::Greeting(accept) = self {
            let stream = ready!(Pin::new(accept).poll(context))?;
            *self = Self::Tls(Box::new(stream));
        }
        Poll::Ready(match self {
            Self::Plain(stream) => Ok(Pin::new(stream)),
            Self::Tls(stream) => Ok(Pin::new(stream)),
            Self::Greeting(_) => Err(io::Error::other("the handshake is not over")),
        })
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_stream(context))?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_stream(context))?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_stream(context))?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A handshake that was never finished needs no farewell.
        if matches!(*self, Self::Greeting(_)) {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_stream(context))?.poll_shutdown(context)
    }
}
