use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::*;

fn v2_header(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
    header.extend(block);
    header
}

fn block_of(source: SocketAddr) -> (u8, Vec<u8>) {
    let mut block = Vec::new();
    let family = match source.ip() {
        IpAddr::V4(address) => {
            block.extend(address.octets());
            block.extend([192, 0, 2, 1]);
            0x11
        }
        IpAddr::V6(address) => {
            block.extend(address.octets());
            block.extend([0; 16]);
            0x21
        }
    };
    block.extend(source.port().to_be_bytes());
    block.extend([0, 80]);
    (family, block)
}

/// What is read of a connection that has these bytes, in pieces of `piece`, and what is left of it.
async fn read_of(bytes: &[u8], piece: usize) -> (Result<Option<SocketAddr>, ReadError>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut sender = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    sender.set_nodelay(true).unwrap();
    let (mut receiver, _) = listener.accept().await.unwrap();
    let bytes = bytes.to_vec();
    let sending = tokio::spawn(async move {
        for part in bytes.chunks(piece) {
            // Who refuses the header may be gone.
            if sender.write_all(part).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    });
    let found = read(&mut receiver).await;
    let mut left = Vec::new();
    let _ = receiver.read_to_end(&mut left).await;
    sending.await.unwrap();
    (found, left)
}

#[test]
fn the_specifications_lines_are_read_and_others_refused() {
    let address = |text: &str| Some(text.parse().unwrap());
    for (line, wanted) in [
        (
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            address("192.168.0.1:56324"),
        ),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            address("255.255.255.255:65535"),
        ),
        ("PROXY TCP6 ::1 ::1 0 1\r\n", address("[::1]:0")),
        ("PROXY UNKNOWN\r\n", None),
        (
            "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
            None,
        ),
    ] {
        assert_eq!(v1(line.as_bytes()), Ok(wanted), "{line}");
    }
    for line in [
        "",
        "PROXY \r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 1",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n",
        "PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n",
        "PROXY TCP4 1.2.3 1.2.3.4 1 1\r\n",
        "PROXY TCP4 ::1 ::1 1 1\r\n",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n",
        "PROXY TCP6 ::1%lo ::1 1 1\r\n",
        "PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXYTCP4 1.2.3.4 1.2.3.4 1 1\r\n",
        "proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
    ] {
        assert_eq!(v1(line.as_bytes()), Err(HeaderError::Line), "{line:?}");
    }
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(v1(long.as_bytes()), Err(HeaderError::LongLine));
}

#[test]
fn a_binary_header_says_whose_the_connection_is_or_that_it_is_the_senders() {
    let client: SocketAddr = "[2001:db8::7]:4711".parse().unwrap();
    let (family, block) = block_of(client);
    let with_extensions = [&block[..], &[0x04, 0, 1, 9]].concat();
    for (header, wanted) in [
        (v2_header(0x21, family, &block), Some(client)),
        (v2_header(0x21, family, &with_extensions), Some(client)),
        (v2_header(0x20, family, &block), None),
        (v2_header(0x20, 0xff, &[]), None),
        (v2_header(0x21, 0x00, &[7; 50]), None),
        (v2_header(0x21, 0x31, &[7; 216]), None),
    ] {
        assert_eq!(v2(&header), Ok((wanted, header.len())), "{header:?}");
    }
    for (header, wanted) in [
        (v2_header(0x11, family, &block), HeaderError::Unknown),
        (v2_header(0x22, family, &block), HeaderError::Unknown),
        (v2_header(0x21, 0x13, &block), HeaderError::Unknown),
        (v2_header(0x21, 0x41, &block), HeaderError::Unknown),
        (v2_header(0x21, family, &block[..35]), HeaderError::Short),
        (v2_header(0x21, 0x11, &block[..11]), HeaderError::Short),
        (v2_header(0x20, 0, &[0; 4097]), HeaderError::LongBlock),
        (b"GET / HTTP/1.1\r\n".to_vec(), HeaderError::Missing),
    ] {
        assert_eq!(v2(&header), Err(wanted), "{header:?}");
    }
}

#[tokio::test]
async fn not_one_byte_behind_the_header_is_taken() {
    let client: SocketAddr = "203.0.113.7:4711".parse().unwrap();
    let (family, mut block) = block_of(client);
    block.extend([0x04, 0x01, 0x00]);
    block.extend([0; 256]);
    for header in [
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n".to_vec(),
        v2_header(0x21, family, &block),
    ] {
        for rest in [&b"GET /\r\n\n\0"[..], b"\n\n", b""] {
            for piece in [1, 3, 17, 4096] {
                let (found, left) = read_of(&[&header[..], rest].concat(), piece).await;
                assert_eq!(found.unwrap(), Some(client));
                assert_eq!(left, rest, "{piece}");
            }
        }
    }
}

#[tokio::test]
async fn a_connection_without_a_whole_header_is_told_from_a_closed_one() {
    assert!(matches!(read_of(b"", 1).await.0, Err(ReadError::Closed)));
    let line = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n";
    let binary = v2_header(0x21, 0x11, &[1; 12]);
    for whole in [&line[..], &binary] {
        for length in 1..whole.len() {
            let (found, _) = read_of(&whole[..length], 5).await;
            assert!(matches!(found, Err(ReadError::Io(_))), "{length}");
        }
    }
    let long = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
    for (bytes, wanted) in [
        (
            &b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            HeaderError::Missing,
        ),
        (b"PROXY TCP4 1.2.3.4\r\nxxxx", HeaderError::Line),
        (&long, HeaderError::LongLine),
    ] {
        let (found, _) = read_of(bytes, 4096).await;
        assert!(
            matches!(&found, Err(ReadError::Header(error)) if *error == wanted),
            "{found:?}"
        );
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(address: IpAddr, port: u16, extensions in proptest::collection::vec(any::<u8>(), 0..600)) {
        let client = SocketAddr::new(address, port);
        let family = if address.is_ipv4() { "TCP4" } else { "TCP6" };
        let line = format!("PROXY {family} {address} {address} {port} {port}\r\n");
        prop_assert_eq!(v1(line.as_bytes()), Ok(Some(client)));
        let (family, mut block) = block_of(client);
        block.extend(extensions);
        let header = v2_header(0x21, family, &block);
        prop_assert_eq!(v2(&header), Ok((Some(client), header.len())));
        prop_assert!(v2(&header[..header.len() - 1]).is_err());
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = v1(&bytes);
        let _ = v2(&bytes);
        let _ = v2(&[&SIGNATURE[..], &bytes].concat());
    }
}
