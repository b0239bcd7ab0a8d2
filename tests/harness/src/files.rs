//! Small files of every type that may be sent, made here: real enough for whoever looks at their content.

/// A picture of one pixel.
pub fn jpeg() -> Vec<u8> {
    const HEX: &str = "ffd8ffdb004300030202020202030202020303030304060404040404080606050609080a0a090809090a0c0f0c0a0b0e0b09090d\
        110d0e0f101011100a0c12131210130f101010ffc9000b080001000101011100ffcc000600101005ffda0008010100003f00d2cf20ffd9";
    let digits: Vec<u8> = HEX.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// A picture of one colour, 512 x 512 pixels, in lossless WebP.
pub fn webp() -> Vec<u8> {
    const SIDE: u64 = 512;
    // Width and height less one, no alpha, version 0; no transform, no cache, no groups; then five codes
    // of one symbol each, so that the pixels take no bits.
    let size = (SIDE - 1) | (SIDE - 1) << 14;
    let codes = (0..5).fold(0, |bits, n| bits | 1 << (4 * n));
    let bits = size | codes << (32 + 3);
    let mut data = vec![0x2f];
    data.extend_from_slice(&bits.to_le_bytes());
    data.push(0);
    let length = (data.len() as u32).to_le_bytes();
    let riff = (data.len() as u32 + 12).to_le_bytes();
    [&b"RIFF"[..], &riff, b"WEBPVP8L", &length, &data].concat()
}

/// The beginning of a recording.
pub fn opus() -> Vec<u8> {
    ogg(b"OpusHead\x01\x01\x38\x01\x80\xbb\0\0\0\0\0")
}

/// The beginning of a piece of music.
pub fn vorbis() -> Vec<u8> {
    ogg(b"\x01vorbis\0\0\0\0\x01\x80\xbb\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xb8\x01")
}

/// One page with one packet.
fn ogg(packet: &[u8]) -> Vec<u8> {
    let mut page = [&b"OggS\0\x02"[..], &[0; 8], b"\x07\0\0\0", &[0; 8], &[1, packet.len() as u8], packet].concat();
    let mut sum = 0_u32;
    for byte in &page {
        sum ^= u32::from(*byte) << 24;
        for _ in 0..8 {
            sum = if sum & 0x8000_0000 == 0 { sum << 1 } else { (sum << 1) ^ 0x04c1_1db7 };
        }
    }
    page[22..26].copy_from_slice(&sum.to_le_bytes());
    page
}

/// The beginning of a film.
pub fn mp4() -> Vec<u8> {
    [&b"\0\0\0\x18ftypisom\0\0\x02\0isommp42"[..], b"\0\0\0\x08mdat"].concat()
}

/// The beginning of a song.
pub fn mp3() -> Vec<u8> {
    b"ID3\x04\0\0\0\0\0\0\xff\xfb\x90\x64".to_vec()
}

/// A file by the name the vectors give it.
pub fn by_name(name: &str) -> Option<Vec<u8>> {
    Some(match name {
        "tiny.jpg" | "a.jpg" => jpeg(),
        "tiny.webp" => webp(),
        "tiny.opus" => opus(),
        "tiny.ogg" => vorbis(),
        "c.mp3" => mp3(),
        "tiny.mp4" => mp4(),
        _ => return None,
    })
}
