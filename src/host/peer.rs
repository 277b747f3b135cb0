//! A scripted controller for this room's tests: a listener on an ephemeral port and a thread that says
//! exactly the bytes a test wants said. Everything it waits for is bounded by [`PATIENCE`].

use super::address::Address;
use super::connection::{Connection, ConnectionOptions};
use super::error::Error;
use super::queue::Queue;
use crate::nvme::command::{Command, Completion};
use crate::nvme::pdu::{
    self, COMMAND_HEADER_SIZE, DATA_HEADER_SIZE, Digests, InitializeResponse, Kind, Layout,
    Receiver, Rules, Terminate, Transfer,
};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longer than anything takes on a loaded machine; a test that gets here has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the scripted controller offers in ICResp.
pub const DATA_SIZE_MAX: u32 = 4096;

/// One accepted connection.
pub struct Peer {
    connection: Connection,
    stream: TcpStream,
    pub digests: Digests,
    /// CPDA.
    pub alignment: u8,
}

/// Runs `script` on the first connection; the address to connect to, and the script's thread.
pub fn listen<T: Send + 'static>(
    script: impl FnOnce(Peer) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    serve(move |listener| script(Peer::accept(listener)))
}

/// Runs `script` with the listener, for more than one connection.
pub fn serve<T: Send + 'static>(
    script: impl FnOnce(&TcpListener) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, std::thread::spawn(move || script(&listener)))
}

/// Options for connecting to a scripted controller.
pub fn options(digests: Digests) -> ConnectionOptions {
    ConnectionOptions {
        digests,
        alignment: 0,
        timeout: PATIENCE,
        deadline: None,
    }
}

/// A queue past ICResp; capsules carry up to 512 bytes.
pub fn open_queue(address: SocketAddr, digests: Digests, depth: usize) -> Queue {
    let connection = Connection::open(&[address], PATIENCE).unwrap();
    let (stream, negotiated) = connection.initialize(&options(digests)).unwrap();
    Queue::new(stream, negotiated, depth, 512)
}

/// The address of a subsystem at a scripted controller.
pub fn subsystem(address: SocketAddr) -> Address {
    Address::new(address, "nqn.2026-11.io.polldm:scripted")
}

impl Peer {
    /// Waits for a connection.
    pub fn accept(listener: &TcpListener) -> Self {
        Self::accept_within(listener, PATIENCE)
    }

    /// The same, for a host that says nothing as long as it has nothing to say.
    pub fn accept_patiently(listener: &TcpListener) -> Self {
        Self::accept_within(listener, Duration::from_secs(3600))
    }

    fn accept_within(listener: &TcpListener, patience: Duration) -> Self {
        let (stream, _) = listener.accept().unwrap();
        let connection = Connection::from_stream(stream.try_clone().unwrap(), patience).unwrap();
        Self {
            connection,
            stream,
            digests: Digests::default(),
            alignment: 0,
        }
    }

    /// Receives ICReq and answers as asked.
    pub fn initialize(&mut self) {
        self.initialize_or_end().unwrap();
    }

    /// The same, unless the connection ends.
    pub fn initialize_or_end(&mut self) -> Result<(), Error> {
        let request = self.connection.receive_pdu()?;
        assert_eq!(request[0], Kind::InitializeRequest as u8);
        self.digests = Digests::decode(request[11]);
        let response = InitializeResponse {
            format_version: 0,
            controller_alignment: self.alignment,
            digests: self.digests,
            data_size_max: DATA_SIZE_MAX,
        };
        self.send(&response.encode());
        Ok(())
    }

    /// Says these bytes. A host that is gone is not an error: some tests make it go.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// One PDU, checked by the decoder and against its digests; its layout and its bytes.
    pub fn receive(&mut self) -> (Layout, Vec<u8>) {
        self.receive_or_end().unwrap()
    }

    /// The same, unless the connection ends.
    pub fn receive_or_end(&mut self) -> Result<(Layout, Vec<u8>), Error> {
        let bytes = self.connection.receive_pdu()?;
        let rules = Rules {
            receiver: Receiver::Controller,
            header_digest: self.digests.header,
            data_digest: self.digests.data,
            alignment: self.alignment,
            capsule_data_size_max: 8192,
            data_size_max: DATA_SIZE_MAX,
        };
        let layout = pdu::decode_header(&bytes, &rules).unwrap();
        if layout.header_digest {
            pdu::check_header_digest(&bytes, layout.header_size as usize).unwrap();
        }
        if layout.data_digest {
            let data = Self::data(&layout, &bytes);
            assert_eq!(bytes[bytes.len() - 4..], pdu::digest(data).to_le_bytes());
        }
        Ok((layout, bytes))
    }

    /// The socket, to close it from another thread.
    pub fn stream(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    /// The data of a PDU.
    pub fn data<'a>(layout: &Layout, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[layout.data_offset as usize..][..layout.data_size as usize]
    }

    /// A command capsule and its in-capsule data.
    pub fn receive_command(&mut self) -> (Command, Vec<u8>) {
        let (layout, bytes) = self.receive();
        assert_eq!(layout.kind, Kind::Command);
        assert!(bytes.len() >= COMMAND_HEADER_SIZE);
        (
            pdu::decode_command(&bytes),
            Self::data(&layout, &bytes).to_vec(),
        )
    }

    /// An H2CData PDU: its fields, flags and data.
    pub fn receive_data(&mut self) -> (Transfer, u8, Vec<u8>) {
        let (layout, bytes) = self.receive();
        assert_eq!(layout.kind, Kind::HostData);
        let transfer = Transfer::decode(&bytes);
        transfer.check(&layout).unwrap();
        (transfer, layout.flags, Self::data(&layout, &bytes).to_vec())
    }

    /// The H2CTermReq that has to come, and then the end of the connection.
    pub fn receive_terminate(&mut self) -> Terminate {
        let bytes = self.connection.receive_pdu().unwrap();
        assert_eq!(bytes[0], Kind::HostTerminate as u8, "{bytes:?}");
        self.connection.expect_end().unwrap();
        Terminate::decode(&bytes)
    }

    /// Answers a command.
    pub fn respond(&mut self, completion: &Completion) {
        let mut bytes = [0; 28];
        let size = pdu::encode_response(&mut bytes, completion, self.digests.header);
        self.send(&bytes[..size]);
    }

    /// One C2HData PDU.
    pub fn data_pdu(&self, command_id: u16, offset: u32, data: &[u8], flags: u8) -> Vec<u8> {
        let transfer = Transfer {
            command_id,
            tag: 0,
            offset,
            size: data.len() as u32,
        };
        let mut bytes = vec![0; DATA_HEADER_SIZE + 8];
        let head = transfer.encode_data(&mut bytes, Kind::ControllerData, flags, self.digests, 0);
        bytes.truncate(head);
        bytes.extend(data);
        if self.digests.data {
            bytes.extend(pdu::digest(data).to_le_bytes());
        }
        bytes
    }

    /// Asks for data.
    pub fn request(&mut self, transfer: &Transfer) {
        let mut bytes = [0; 28];
        let size = transfer.encode_ready(&mut bytes, self.digests.header);
        self.send(&bytes[..size]);
    }
}
