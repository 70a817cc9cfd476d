<?php
// Receives leadsbotd webhooks with nothing but PHP (8.1 or newer) and its pdo_sqlite extension.
//
// To try it:      LEADSBOT_SECRET=... php receiver.php      (starts PHP's built-in server)
//            or:  LEADSBOT_SECRET=... php -S 127.0.0.1:9000 receiver.php
// In production:  behind Apache or nginx with php-fpm. Hand LEADSBOT_SECRET and STORE to the script as
//                 environment variables, and keep STORE outside of the folder that the web server serves.
//
// Every event becomes one row of the SQLite file STORE, holding the exact bytes that were signed.
//
// It must never answer 2xx before the event would survive a power cut: after a 2xx the sender
// considers the event delivered and does not send it again.

declare(strict_types=1);

const BODY_BYTES_MAX = 1024 * 1024;

if (PHP_SAPI === 'cli') {
    serve();
}
ini_set('display_errors', '0'); // a notice in front of the answer would spoil its status line
try {
    [$status, $answer] = receive();
} catch (Throwable $error) {
    error_log((string) $error);
    [$status, $answer] = [500, ['error' => 'internal error']];
}
http_response_code($status);
header('Content-Type: application/json');
if ($status === 405) {
    header('Allow: POST');
}
echo json_encode($answer);

/** @return array{int, array<string, string>} the status and the answer */
function receive(): array
{
    if ($_SERVER['REQUEST_METHOD'] !== 'POST') {
        return [405, ['error' => 'only POST is accepted here']];
    }
    // php://input, because $_POST and any framework's request object hold a parsed copy.
    $rawBody = file_get_contents('php://input', length: BODY_BYTES_MAX + 1);
    if ($rawBody === false) {
        return [500, ['error' => 'the body could not be read']];
    }
    if (strlen($rawBody) > BODY_BYTES_MAX) {
        return [413, ['error' => 'the body is larger than ' . BODY_BYTES_MAX . ' bytes']];
    }
    $secrets = secrets();
    if ($secrets === []) {
        error_log('LEADSBOT_SECRET is not set');
        return [500, ['error' => 'the receiver is not configured']];
    }
    if (!isSigned($rawBody, $secrets)) {
        return [401, ['error' => 'no valid signature']];
    }
    try {
        $event = json_decode($rawBody, true, flags: JSON_THROW_ON_ERROR);
    } catch (JsonException) {
        return [400, ['error' => 'the body is not JSON']];
    }
    $id = eventId($_SERVER['HTTP_X_LEADSBOT_EVENT_ID'] ?? null, $event);
    if ($id === null) {
        return [400, ['error' => 'no usable event id']];
    }
    try {
        $isNew = keep($id, $rawBody);
    } catch (PDOException $error) {
        error_log("$id: not stored: {$error->getMessage()}");
        return [503, ['error' => 'the event could not be stored']];
    }
    // Do slow work (mail, CRM, ...) from the store, not here: the sender waits for this answer.
    return [200, ['status' => $isNew ? 'stored' : 'duplicate']];
}

/** @return list<string> */
function secrets(): array
{
    // An empty second secret is no secret: with '' as a key anybody could sign.
    $first = (string) getenv('LEADSBOT_SECRET');
    $next = (string) getenv('LEADSBOT_SECRET_NEXT');
    return $first === '' ? [] : ($next === '' ? [$first] : [$first, $next]);
}

/**
 * True when a signature header was made from these bytes with one of our secrets.
 *
 * @param list<string> $secrets
 */
function isSigned(string $rawBody, array $secrets): bool
{
    foreach (['HTTP_X_LEADSBOT_SIGNATURE', 'HTTP_X_LEADSBOT_SIGNATURE_NEXT'] as $name) {
        foreach ($secrets as $secret) {
            // Takes a header of any length and content, and compares in constant time. `==` would do neither.
            if (hash_equals(hash_hmac('sha256', $rawBody, $secret), $_SERVER[$name] ?? '')) {
                return true;
            }
        }
    }
    return false;
}

/** The id to tell duplicates by, or null. */
function eventId(?string $header, mixed $event): ?string
{
    $inBody = is_array($event) && is_string($event['id'] ?? null) ? $event['id'] : null;
    $id = $header ?? $inBody;
    // The signature covers the body, not the headers: nobody may pass an old event off as a new one.
    if ($inBody !== null && str_starts_with($inBody, 'evt_') && $inBody !== $id) {
        return null;
    }
    // \z, because `$` would also accept a line break at the end.
    return preg_match('/\A[A-Za-z0-9_-]{1,64}\z/', $id ?? '') === 1 ? $id : null;
}

/** Puts the event on the disk; false when it was there already. */
function keep(string $id, string $rawBody): bool
{
    // Behind a real web server a relative path could end inside the served folder.
    $path = getenv('STORE') ?: (PHP_SAPI === 'cli-server' ? 'events.db' : throw new RuntimeException('STORE is not set'));
    umask(0077); // people's details: for this user only
    $db = new PDO("sqlite:$path", options: [PDO::ATTR_TIMEOUT => 2]); // seconds to wait for another request
    // EXTRA also syncs the folder when the rollback journal goes; with FULL a power cut could bring it
    // back and undo the commit. (WAL would do with FULL, but is rebuilt for each of PHP's connections.)
    $db->exec('PRAGMA synchronous = EXTRA');
    $db->exec('CREATE TABLE IF NOT EXISTS events (
        id          TEXT PRIMARY KEY,
        received_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
        body        TEXT NOT NULL
    )');
    // The primary key decides, not a SELECT before it: two deliveries may come at once.
    $insert = $db->prepare('INSERT INTO events (id, body) VALUES (?, ?) ON CONFLICT (id) DO NOTHING');
    $insert->execute([$id, $rawBody]);
    return $insert->rowCount() === 1;
}

/** `php receiver.php`: becomes PHP's built-in server with this file as its only page. */
function serve(): never
{
    if (secrets() === []) {
        fwrite(STDERR, "LEADSBOT_SECRET is not set: give it the secret of the destination in leadsbotd\n");
        exit(2);
    }
    $host = getenv('HOST') ?: '127.0.0.1';
    $port = (string) getenv('PORT');
    $port = $port === '' ? '9000' : $port;
    if ($port === '0') {
        $probe = stream_socket_server("tcp://$host:0") ?: exit(1);
        $port = substr(strrchr(stream_socket_get_name($probe, false), ':'), 1);
        fclose($probe);
    }
    putenv('PHP_CLI_SERVER_WORKERS=4'); // otherwise one request at a time
    echo "listening on http://$host:$port\n"; // a few milliseconds early: the server starts with the next line
    pcntl_exec(PHP_BINARY, ['-S', "$host:$port", __FILE__]);
    exit(1);
}
